//! `tram doctor`: what is wrong with the node, each with its cure.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tram_client::{Admin, DoctorAnswer, Error, Place};

use crate::args::Lang;
use crate::exit::{Failure, NEGATIVE, UNREACHABLE};
use crate::{show, stopped};

/// A node with eight uplinks that do not answer takes half of it.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) async fn run(place: &Place, dir: Option<&Path>, lang: Option<Lang>, json: bool) -> Result<(), Failure> {
    let lang = lang.unwrap_or_else(|| of_environment(|name| std::env::var(name).ok()));
    let word = if lang == Lang::Vi { "vi" } else { "en" };
    let asked = async { Admin::connect(place).await?.doctor(word).await };
    let answer = match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(Error::Unreachable { .. })) => stopped::ask(dir, &["doctor", "--lang", word])?,
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => {
            let why = format!("the daemon has not answered for {} s: see its log, restart it", PATIENCE.as_secs());
            return Err(Failure::new(UNREACHABLE, why));
        }
    };
    if json {
        show::json(&answer_json(&answer))?;
    } else {
        show::line(&text(&answer, lang))?;
    }
    if answer.findings.is_empty() { Ok(()) } else { Err(Failure::new(NEGATIVE, "")) }
}

/// The language of messages, as POSIX orders the variables.
fn of_environment(get: impl Fn(&str) -> Option<String>) -> Lang {
    let set =
        ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().find_map(|name| get(name).filter(|value| !value.is_empty()));
    if set.is_some_and(|value| value.starts_with("vi")) { Lang::Vi } else { Lang::En }
}

fn answer_json(answer: &DoctorAnswer) -> serde_json::Value {
    let findings = answer
        .findings
        .iter()
        .map(|one| json!({ "area": one.area, "code": one.code, "what": one.what, "cure": one.cure }));
    let looked_at = answer.looked_at.iter().map(|look| json!({ "area": look.area, "measured": look.measured }));
    json!({
        "schema": "tram.doctor/v1",
        "running": answer.running,
        "findings": findings.collect::<Vec<_>>(),
        "looked_at": looked_at.collect::<Vec<_>>(),
    })
}

fn text(answer: &DoctorAnswer, lang: Lang) -> String {
    let (cure, well, nothing) = match lang {
        Lang::Vi => ("cách xử lý", "tốt", "mọi thứ đều tốt"),
        Lang::En => ("cure", "well", "all is well"),
    };
    let mut lines = Vec::new();
    for one in &answer.findings {
        lines.push(format!("! {}", show::plain(&one.what)));
        lines.push(format!("  {cure}: {}", show::plain(&one.cure)));
    }
    if answer.findings.is_empty() {
        lines.push(nothing.to_owned());
    }
    for look in answer.looked_at.iter().filter(|look| answer.findings.iter().all(|one| one.area != look.area)) {
        let measured = if look.measured.is_empty() { String::new() } else { format!(" ({})", look.measured) };
        lines.push(show::plain(&format!("{well}: {}{measured}", area(&look.area, lang))));
    }
    lines.join("\n")
}

fn area(word: &str, lang: Lang) -> &str {
    match (lang, word) {
        (Lang::Vi, "daemon") => "tramd",
        (Lang::Vi, "config") => "cấu hình",
        (Lang::Vi, "files") => "tệp và quyền",
        (Lang::Vi, "certificates") => "chứng thư",
        (Lang::Vi, "clock") => "đồng hồ",
        (Lang::Vi, "disk") => "đĩa",
        (Lang::Vi, "network") => "mạng",
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    use tram_client::Finding;
    use tram_proto::local::Look;

    use super::*;

    #[test]
    fn the_language_is_that_of_messages() {
        let of = |set: &[(&str, &str)]| {
            of_environment(|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(of(&[]), Lang::En);
        assert_eq!(of(&[("LANG", "vi_VN.UTF-8")]), Lang::Vi);
        assert_eq!(of(&[("LANG", "vi_VN.UTF-8"), ("LC_MESSAGES", "en_US.UTF-8")]), Lang::En);
        assert_eq!(of(&[("LANG", "C"), ("LC_MESSAGES", ""), ("LC_ALL", "vi_VN")]), Lang::Vi);
    }

    #[test]
    fn a_finding_is_a_line_and_its_cure_and_what_is_well_is_named() {
        let look = |area: &str, measured: &str| Look { area: area.to_owned(), measured: measured.to_owned() };
        let finding = Finding {
            area: "config".to_owned(),
            code: "config_fault".to_owned(),
            what: "a\u{1b}b".to_owned(),
            cure: "c".to_owned(),
        };
        let looked_at = vec![look("config", ""), look("disk", "1 GiB"), look("files", "")];
        let sick = DoctorAnswer { findings: vec![finding], looked_at, running: true };
        assert_eq!(text(&sick, Lang::En), "! a?b\n  cure: c\nwell: disk (1 GiB)\nwell: files");
        let well = DoctorAnswer { findings: Vec::new(), ..sick };
        assert_eq!(text(&well, Lang::Vi), "mọi thứ đều tốt\ntốt: cấu hình\ntốt: đĩa (1 GiB)\ntốt: tệp và quyền");
    }
}
