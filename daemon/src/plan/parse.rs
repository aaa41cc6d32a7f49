//! `[plan]` as it stands in the config, and its checks: all of it is right, or none of it is taken.

use std::path::PathBuf;

use jiff::tz::TimeZone;
use serde::Deserialize;
use tram_proto::envelope::Precedence;
use tram_proto::name::NodeName;

use crate::config::Draft;

use super::{Hours, Limit, Line, LinkName, MINUTES_OF_DAY, Plan, Rate, Scope};

/// Days as they are written.
pub(super) const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// `[plan]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PlanSection {
    /// Lines whose rate is known.
    pub(crate) line: Vec<LineSection>,
    /// What may be sent when.
    pub(crate) limit: Vec<LimitSection>,
}

/// `[[plan.line]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LineSection {
    link: String,
    rate: String,
}

/// `[[plan.limit]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitSection {
    link: String,
    #[serde(default)]
    classes: Vec<String>,
    #[serde(default)]
    days: Vec<String>,
    hours: Option<String>,
    most: String,
}

impl PlanSection {
    /// The plan it means, without what is wrong. `uplinks` are the parents this node dials.
    pub(crate) fn check(&self, draft: &mut Draft, zone: TimeZone, uplinks: &[NodeName]) -> Plan {
        let mut plan = Plan { zone, ..Plan::default() };
        let known = Known { uplinks, some: !uplinks.is_empty() || draft.doubts("uplink") };
        for (at, entry) in self.line.iter().enumerate() {
            let key = format!("plan.line[{}]", at + 1);
            let line = link(&entry.link, &known).and_then(|link| Ok(Line { link, rate: entry.rate.parse()? }));
            match line {
                Err(why) => draft.wrong(&key, why),
                Ok(line) if plan.lines.iter().any(|other| other.link == line.link) => {
                    let why = format!("the line of {} is declared twice: keep one of them", line.link);
                    draft.wrong(&key, why);
                }
                Ok(line) => {
                    plan.name(&line.link, draft.place(&key));
                    plan.lines.push(line);
                }
            }
        }
        // Which entry of the files each is.
        let mut kept: Vec<String> = Vec::new();
        for (at, entry) in self.limit.iter().enumerate() {
            let key = format!("plan.limit[{}]", at + 1);
            let limit = match entry.check(&plan, &known, draft.doubts("plan.line")) {
                Ok(Some(limit)) => limit,
                Ok(None) => continue,
                Err(why) => {
                    draft.wrong(&key, why);
                    continue;
                }
            };
            let meets = plan.limits.iter().zip(&kept).find_map(|(other, key)| Some((overlap(&limit, other)?, key)));
            if let Some((scope, other)) = meets {
                let (path, line) = draft.place(other).unwrap_or_default();
                let why = format!(
                    "its hours overlap for {scope} of {} with the entry in line {line} of {}: let one end where the \
                     other begins",
                    limit.link,
                    path.display()
                );
                draft.wrong(&key, why);
                continue;
            }
            plan.name(&limit.link, draft.place(&key));
            plan.limits.push(limit);
            kept.push(key);
        }
        plan
    }
}

/// What is known of the neighbours while a plan is read.
struct Known<'a> {
    uplinks: &'a [NodeName],
    /// There is an uplink, though perhaps one that is misspelt.
    some: bool,
}

impl Plan {
    fn name(&mut self, link: &LinkName, origin: Option<(PathBuf, usize)>) {
        if let (LinkName::Node(name), Some(origin)) = (link, origin) {
            self.named.entry(name.clone()).or_insert(origin);
        }
    }
}

fn overlap(one: &Limit, other: &Limit) -> Option<Scope> {
    let meet = one.hours.iter().any(|a| other.hours.iter().any(|b| a.meets(*b)));
    let same = one.scopes.iter().find(|scope| other.scopes.contains(scope)).copied();
    same.filter(|_| one.link == other.link && meet)
}

impl LimitSection {
    /// `None` when it cannot be judged because of a line that is wrong.
    fn check(&self, plan: &Plan, known: &Known<'_>, doubtful: bool) -> Result<Option<Limit>, String> {
        let link = link(&self.link, known)?;
        let declared = declared(plan, &link, known.uplinks);
        if declared.is_none() && doubtful && self.most.trim().ends_with('%') {
            return Ok(None);
        }
        let most = match self.most.trim().strip_suffix('%') {
            Some(percent) => {
                let percent = percent.trim().parse::<u64>().ok().filter(|p| (1..=100).contains(p));
                let percent = percent
                    .ok_or_else(|| format!("{:?} is not a share: give one from \"1%\" to \"100%\"", self.most))?;
                let of = declared.ok_or_else(|| {
                    format!("{percent}% of what? Declare the rate of {link} in [[plan.line]], or give a rate such as \"2mbit\"")
                })?;
                of.percent(percent)
            }
            None => self.most.parse()?,
        };
        if let Some(line) = declared.filter(|line| most > *line) {
            return Err(format!("{most} is more than the declared line of {line}: give at most that"));
        }
        let scopes = match self.classes.as_slice() {
            [] => vec![Scope::All],
            words => words.iter().map(|w| w.parse::<Precedence>().map(Scope::Class)).collect::<Result<_, _>>()?,
        };
        Ok(Some(Limit { link, scopes, hours: hours(&self.days, self.hours.as_deref())?, most }))
    }
}

/// The declared rate that a limit's share is of.
fn declared(plan: &Plan, link: &LinkName, uplinks: &[NodeName]) -> Option<Rate> {
    let of = |link: &LinkName| plan.lines.iter().find(|line| line.link == *link).map(|line| line.rate);
    let general = match link {
        LinkName::Node(name) if uplinks.contains(name) => of(&LinkName::Uplink),
        LinkName::Node(_) => of(&LinkName::Children),
        LinkName::Uplink | LinkName::Children => None,
    };
    of(link).or(general)
}

fn link(text: &str, known: &Known<'_>) -> Result<LinkName, String> {
    match text {
        "uplink" if !known.some => Err("this node has no uplink: give \"children\" or a child's name".to_owned()),
        "uplink" => Ok(LinkName::Uplink),
        "children" => Ok(LinkName::Children),
        name => name
            .parse()
            .map(LinkName::Node)
            .map_err(|why| format!("{why}; a link is \"uplink\", \"children\" or a neighbour's name")),
    }
}

fn hours(days: &[String], hours: Option<&str>) -> Result<Vec<Hours>, String> {
    let (from, to) = match hours {
        None => (0, MINUTES_OF_DAY),
        Some(text) => {
            let wrong = || format!("{text:?} are not hours: write them such as \"07:00-17:30\" or \"22:00-06:00\"");
            let (from, to) = text.split_once('-').ok_or_else(wrong)?;
            let (from, to) = (minute(from).ok_or_else(wrong)?, minute(to).ok_or_else(wrong)?);
            if from == MINUTES_OF_DAY {
                return Err(wrong());
            }
            if from == to {
                return Err(format!("{text:?} is empty: leave hours out for the whole day"));
            }
            // Past midnight, into the day after.
            (from, if to < from { to + MINUTES_OF_DAY } else { to })
        }
    };
    let mut all: Vec<Hours> = Vec::new();
    for day in days_of(days)? {
        let hours = Hours { from: day * MINUTES_OF_DAY + from, to: day * MINUTES_OF_DAY + to };
        if let Some(twice) = all.iter().find(|other| other.meets(hours)) {
            let (day, other) = (DAYS[usize::from(day)], DAYS[usize::from(twice.from / MINUTES_OF_DAY)]);
            return Err(format!(
                "its hours overlap with themselves on {other} and {day}: name each day once, at most 24 hours"
            ));
        }
        all.push(hours);
    }
    Ok(all)
}

fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.trim().split_once(':')?;
    let digits = |part: &str| (part.len() == 2).then(|| part.parse::<u16>().ok()).flatten();
    let (hour, minute) = (digits(hour)?, digits(minute)?);
    let of_day = hour * 60 + minute;
    (minute < 60 && of_day <= MINUTES_OF_DAY).then_some(of_day)
}

fn days_of(words: &[String]) -> Result<Vec<u16>, String> {
    if words.is_empty() {
        return Ok((0..7).collect());
    }
    let day = |word: &str| DAYS.iter().position(|name| *name == word.trim()).and_then(|at| u16::try_from(at).ok());
    let mut days = Vec::new();
    for word in words {
        let wrong = || format!("{word:?} is not a day: write mon, tue, wed, thu, fri, sat, sun, or \"mon-fri\"");
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        let (first, last) = (day(first).ok_or_else(wrong)?, day(last).ok_or_else(wrong)?);
        let count = (last + 7 - first) % 7;
        days.extend((0..=count).map(|n| (first + n) % 7));
    }
    // A week that begins in the middle is put in order, so that hours past Sunday's midnight meet Monday's.
    days.sort_unstable();
    Ok(days)
}
