//! `tram plan`: what links may carry.

use serde_json::{Value, json};
use tram_client::{Admin, Error, Place, PlanAnswer, PlanCeiling};

use crate::args::PlanCommand;
use crate::exit::{BAD_DATA, Failure, NO_INPUT};
use crate::show;

pub(crate) async fn run(place: &Place, command: PlanCommand, json: bool) -> Result<(), Failure> {
    match command {
        PlanCommand::Show => {
            let plan = Admin::connect(place).await?.plan().await?;
            if json { show::json(&plan_json(&plan)) } else { show::line(&now(&plan)) }
        }
        PlanCommand::Check { file } => {
            let named = |path: &std::path::PathBuf| {
                let read = std::fs::read_to_string(path);
                let text = read.map_err(|error| Failure::new(NO_INPUT, format!("{}: {error}", path.display())))?;
                Ok::<_, Failure>((path.display().to_string(), text))
            };
            let file = file.as_ref().map(named).transpose()?;
            let given = file.is_some();
            let checked = Admin::connect(place).await?.check_plan(file).await;
            let plan = checked.map_err(|error| match &error {
                Error::Refused(refusal) if given && refusal.code == "config" => {
                    Failure::new(BAD_DATA, error.to_string())
                }
                _ => error.into(),
            })?;
            if json { show::json(&plan_json(&plan)) } else { show::line(&week(&plan)) }
        }
    }
}

/// Bits per second for people.
fn rate(bits: u64) -> String {
    match bits {
        0 => "no limit".to_owned(),
        bits if bits % 1_000_000 == 0 => format!("{}mbit", bits / 1_000_000),
        bits => format!("{}kbit", bits / 1000),
    }
}

fn now(plan: &PlanAnswer) -> String {
    let mut rows = Vec::new();
    for link in &plan.links {
        let declared = if link.declared_bits == 0 { "-".to_owned() } else { rate(link.declared_bits) };
        for ceiling in &link.ceilings {
            let until = if ceiling.until_ms == 0 { "-".to_owned() } else { show::local(ceiling.until_ms) };
            let first = |text: &str| if ceiling.class == "all" { text.to_owned() } else { String::new() };
            rows.push([first(&link.link), first(&declared), ceiling.class.clone(), rate(ceiling.most_bits), until]);
        }
    }
    if rows.is_empty() {
        return "there are no links".to_owned();
    }
    format!("hours are in {}\n{}", plan.timezone, show::table(["LINK", "LINE", "CLASS", "AT MOST", "UNTIL"], &rows))
}

fn week(plan: &PlanAnswer) -> String {
    let mut rows = Vec::new();
    for link in &plan.links {
        // A class without any limit is not worth a line.
        for ceiling in link.ceilings.iter().filter(|c| c.week.iter().any(|hours| hours.most_bits != 0)) {
            for hours in &ceiling.week {
                rows.push([
                    link.link.clone(),
                    ceiling.class.clone(),
                    format!("{} - {}", hours.from, hours.to),
                    rate(hours.most_bits),
                ]);
            }
        }
    }
    if rows.is_empty() {
        return "the plan limits nothing".to_owned();
    }
    format!("hours are in {}\n{}", plan.timezone, show::table(["LINK", "CLASS", "HOURS", "AT MOST"], &rows))
}

fn plan_json(plan: &PlanAnswer) -> Value {
    let bits = |bits: u64| (bits != 0).then_some(bits);
    let ceiling = |ceiling: &PlanCeiling| {
        let week = ceiling.week.iter();
        let week = week.map(|h| json!({ "from": h.from, "to": h.to, "most_bits_per_s": bits(h.most_bits) }));
        json!({
            "class": ceiling.class,
            "most_bits_per_s": bits(ceiling.most_bits),
            "until": show::utc(ceiling.until_ms),
            "week": week.collect::<Vec<_>>(),
        })
    };
    let links = plan.links.iter().map(|link| {
        json!({
            "link": link.link,
            "side": link.side,
            "declared_bits_per_s": bits(link.declared_bits),
            "ceilings": link.ceilings.iter().map(ceiling).collect::<Vec<_>>(),
        })
    });
    json!({ "timezone": plan.timezone, "now": show::utc(plan.now_ms), "links": links.collect::<Vec<_>>() })
}
