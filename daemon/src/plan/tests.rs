use std::path::Path;

use jiff::civil::date;

use super::*;
use crate::config::Config;

const TOP: &str = "[node]\ntimezone = \"Europe/Berlin\"\n[[uplink]]\nnode = \"central\"\naddresses = [\"h:1\"]\n";

fn plan(text: &str) -> Plan {
    Config::from_text(Path::new("tramd.toml"), &format!("{TOP}{text}")).expect("valid").plan
}

fn at(zone: &str, day: Date, hour: i8, minute: i8) -> u64 {
    let moment = day.at(hour, minute, 0, 0).in_tz(zone).expect("a zone");
    u64::try_from(moment.timestamp().as_millisecond()).expect("after 1970")
}

fn bulk(plan: &Plan, wall_ms: u64) -> (Option<u64>, Option<u64>) {
    let force = plan.in_force(&"central".parse().expect("a name"), Side::Up(0), wall_ms);
    let ceiling = force.ceilings.iter().find(|c| c.scope == Scope::Class(Precedence::Bulk)).expect("there");
    (ceiling.most.map(Rate::bits), ceiling.until_ms)
}

#[track_caller]
fn refused(text: &str, parts: &[&str]) {
    let error = Config::from_text(Path::new("tramd.toml"), &format!("{TOP}{text}")).expect_err("refused").to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn a_rate_carries_its_unit() {
    for (text, bits) in
        [("2mbit", 2_000_000), ("512 kbit", 512_000), ("1.5Mbit/s", 1_500_000), ("1gbit", 1_000_000_000)]
    {
        assert_eq!(text.parse::<Rate>().map(Rate::bits), Ok(bits), "{text}");
    }
    for (bits, text) in [(2_000_000, "2mbit"), (1_500_000, "1.5mbit"), (512_000, "512kbit"), (1_600_000_000, "1.6gbit")]
    {
        assert_eq!(Rate::of_bits(bits).to_string(), text);
    }
    for text in ["2", "2MB", "mbit", "-2mbit", "nan mbit"] {
        assert!(text.parse::<Rate>().expect_err("refused").contains("is not a rate"), "{text}");
    }
    assert!("0mbit".parse::<Rate>().expect_err("refused").contains("lets nothing through"));
}

#[test]
fn what_cannot_be_meant_is_named_with_its_line_and_cure() {
    let limit = |rest: &str| format!("[[plan.limit]]\nlink = \"uplink\"\n{rest}\n");
    refused(&limit("most = \"0mbit\""), &["line 6", "plan.limit", "rate of 0", "leave the entry out"]);
    refused(&limit("most = \"30%\""), &["line 6", "30% of what", "[[plan.line]]"]);
    refused(&limit("most = \"1mbit\"\nhours = \"08:00-08:00\""), &["line 6", "is empty", "leave hours out"]);
    refused(&limit("most = \"1mbit\"\nhours = \"8-17\""), &["line 6", "are not hours", "07:00-17:30"]);
    refused(&limit("most = \"1mbit\"\ndays = [\"monday\"]"), &["line 6", "monday", "mon-fri"]);
    refused(&limit("most = \"1mbit\"\ndays = [\"mon-fri\", \"wed\"]"), &["line 6", "overlap with themselves", "wed"]);
    refused(&limit("most = \"1mbit\"\nclasses = [\"slow\"]"), &["line 6", "slow", "bulk"]);
    refused(&limit("most = \"1mbit\"\nclass = \"bulk\""), &["line 9", "class", "classes"]);
    refused("[[plan.limit]]\nlink = \"Up Link\"\nmost = \"1mbit\"\n", &["line 6", "\"uplink\""]);
    let line = "[[plan.line]]\nlink = \"uplink\"\nrate = \"2mbit\"\n";
    refused(
        &format!("{line}{}", limit("most = \"3mbit\"")),
        &["line 9", "3mbit is more than the declared line of 2mbit"],
    );
    refused(&format!("{line}{line}"), &["line 9", "plan.line", "declared twice"]);
    refused("[[plan.line]]\nlink = \"uplink\"\nrate = \"0bit\"\n", &["line 6", "plan.line", "rate of 0"]);
    let night = limit("classes = [\"bulk\"]\nhours = \"22:00-06:00\"\nmost = \"1mbit\"");
    let early = limit("classes = [\"routine\", \"bulk\"]\ndays = [\"mon\"]\nhours = \"05:59-07:00\"\nmost = \"1mbit\"");
    refused(&format!("{night}{early}"), &["line 11", "bulk of uplink", "line 6", "let one end"]);
    let text = "[[plan.limit]]\nlink = \"uplink\"\nmost = \"1mbit\"\n";
    let error = Config::from_text(Path::new("tramd.toml"), text).expect_err("no uplink").to_string();
    assert!(error.contains("has no uplink"), "{error}");
    let text = "[node]\ntimezone = \"Asia/Saigonn\"\n";
    let error = Config::from_text(Path::new("tramd.toml"), text).expect_err("no such zone").to_string();
    assert!(error.contains("node.timezone") && error.contains("Asia/Ho_Chi_Minh"), "{error}");
}

#[test]
fn hours_that_touch_do_not_overlap() {
    let half = |hours: &str| format!("[[plan.limit]]\nlink = \"uplink\"\nhours = \"{hours}\"\nmost = \"1mbit\"\n");
    plan(&format!("{}{}{}", half("00:00-06:00"), half("06:00-22:00"), half("22:00-24:00")));
    plan(&format!("{}{}", half("22:00-06:00"), half("06:00-22:00")));
}

#[test]
fn bulk_leaves_a_fifth_of_a_declared_line_unless_the_plan_says_otherwise() {
    let line = "[[plan.line]]\nlink = \"uplink\"\nrate = \"10mbit\"\n";
    let monday = date(2026, 6, 1);
    assert_eq!(bulk(&plan(""), at("Europe/Berlin", monday, 12, 0)), (None, None));
    assert_eq!(bulk(&plan(line), at("Europe/Berlin", monday, 12, 0)), (Some(8_000_000), None));
    let work = format!(
        "{line}[[plan.limit]]\nlink = \"uplink\"\nclasses = [\"bulk\"]\ndays = [\"mon-fri\"]\nhours = \"07:00-17:00\"\nmost = \"30%\"\n"
    );
    let plan = plan(&work);
    let end = at("Europe/Berlin", monday, 17, 0);
    assert_eq!(bulk(&plan, at("Europe/Berlin", monday, 12, 0)), (Some(3_000_000), Some(end)));
    assert_eq!(bulk(&plan, end), (Some(8_000_000), Some(at("Europe/Berlin", date(2026, 6, 2), 7, 0))));
    // From Friday's evening to Monday's morning.
    let friday = at("Europe/Berlin", date(2026, 6, 5), 17, 0);
    assert_eq!(bulk(&plan, friday), (Some(8_000_000), Some(at("Europe/Berlin", date(2026, 6, 8), 7, 0))));
}

#[test]
fn what_stands_under_a_name_goes_before_what_stands_for_all() {
    let text =
        "[[plan.limit]]\nlink = \"children\"\nmost = \"4mbit\"\n[[plan.limit]]\nlink = \"can-tho\"\nmost = \"1mbit\"\n";
    let plan = plan(text);
    let all =
        |peer: &str, side| plan.in_force(&peer.parse().expect("a name"), side, 0).most(Scope::All).map(Rate::bits);
    assert_eq!(all("can-tho", Side::Down), Some(1_000_000));
    assert_eq!(all("hue", Side::Down), Some(4_000_000));
    assert_eq!(all("central", Side::Up(0)), None);
}

#[test]
fn the_hours_of_a_plan_are_those_of_the_clock_on_the_wall_also_when_it_changes() {
    let night = |hours: &str| {
        plan(&format!(
            "[[plan.limit]]\nlink = \"uplink\"\nclasses = [\"bulk\"]\nhours = \"{hours}\"\nmost = \"1mbit\"\n"
        ))
    };
    const HOUR: u64 = 3_600_000;
    // On 29 March 2026 the clocks went from 02:00 to 03:00, on 25 October back from 03:00 to 02:00.
    let (spring, autumn) = (date(2026, 3, 29), date(2026, 10, 25));
    let (one, three) = (at("Europe/Berlin", spring, 1, 0), at("Europe/Berlin", spring, 3, 0));
    assert_eq!(three - one, HOUR);
    assert_eq!(bulk(&night("01:00-04:00"), one), (Some(1_000_000), Some(one + 2 * HOUR)));
    // What would begin in the hour that is skipped begins at the change.
    assert_eq!(bulk(&night("02:30-05:00"), one), (None, Some(three)));
    assert_eq!(bulk(&night("02:30-05:00"), three), (Some(1_000_000), Some(three + 2 * HOUR)));
    // What would begin and end in it does not come on that day.
    let next = at("Europe/Berlin", date(2026, 3, 30), 2, 10);
    assert_eq!(bulk(&night("02:10-02:50"), one), (None, Some(next)));

    let one = at("Europe/Berlin", autumn, 1, 0);
    assert_eq!(bulk(&night("01:00-04:00"), one), (Some(1_000_000), Some(one + 4 * HOUR)));
    // The hour that comes twice counts twice.
    let plan = night("02:00-02:30");
    let first = one + HOUR;
    assert_eq!(bulk(&plan, first), (Some(1_000_000), Some(first + HOUR / 2)));
    assert_eq!(bulk(&plan, first + HOUR / 2), (None, Some(first + HOUR)));
    assert_eq!(bulk(&plan, first + HOUR), (Some(1_000_000), Some(first + HOUR + HOUR / 2)));
}

#[test]
fn a_week_is_told_in_stretches() {
    let plan = plan("[[plan.limit]]\nlink = \"uplink\"\ndays = [\"sun\"]\nhours = \"22:00-06:00\"\nmost = \"1mbit\"\n");
    let week = plan.week(&"central".parse().expect("a name"), Side::Up(0), Scope::All);
    let text: Vec<String> = week
        .iter()
        .map(|(h, most)| format!("{}-{} {}", minute_text(h.from, false), minute_text(h.to, true), most.is_some()))
        .collect();
    assert_eq!(text, ["mon 00:00-mon 06:00 true", "mon 06:00-sun 22:00 false", "sun 22:00-sun 24:00 true",]);
}
