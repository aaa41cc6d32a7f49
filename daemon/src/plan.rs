//! The bandwidth plan: what each link may carry, by class, hour and day of the week.
//!
//! Owns the meaning of `[plan]`: links, rates, hours in the node's time zone. A plan speaks of what the clock on the
//! wall shows, so an hour that is skipped or comes twice when the clocks change is skipped or counts twice. Never shapes
//! anything: links ask it what holds now, and until when. DESIGN §6.

mod parse;
mod rate;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _, Zoned};
use tram_proto::envelope::Precedence;
use tram_proto::name::NodeName;
use tram_relay::input::Side;

use crate::config::{ConfigError, Fault};

pub(crate) use parse::PlanSection;
pub use rate::Rate;

/// Where a line's rate is declared, bulk leaves so much of it to others, in percent, unless the plan says otherwise.
const BULK_PERCENT: u64 = 80;
/// A plan repeats every week; boundaries are looked for so many days ahead.
const DAYS: i64 = 8;
const MINUTES_OF_DAY: u16 = 24 * 60;
const MINUTES_OF_WEEK: u16 = 7 * MINUTES_OF_DAY;

/// Which links an entry is for. What stands under a name goes before what stands for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkName {
    /// The link to any parent.
    Uplink,
    /// The link to any child.
    Children,
    /// The link to this neighbour.
    Node(NodeName),
}

impl std::fmt::Display for LinkName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uplink => f.write_str("uplink"),
            Self::Children => f.write_str("children"),
            Self::Node(name) => name.fmt(f),
        }
    }
}

/// What a limit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// All classes together.
    All,
    /// One of them.
    Class(Precedence),
}

impl Scope {
    /// All of them, the sum first.
    pub const EACH: [Self; 6] = [
        Self::All,
        Self::Class(Precedence::Flash),
        Self::Class(Precedence::Immediate),
        Self::Class(Precedence::Priority),
        Self::Class(Precedence::Routine),
        Self::Class(Precedence::Bulk),
    ];
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Class(class) => class.fmt(f),
        }
    }
}

/// Minutes of the week from Monday 00:00, the second not included; the end may lie in the week after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hours {
    /// Below 10,080.
    pub from: u16,
    /// Above `from`.
    pub to: u16,
}

impl Hours {
    const fn has(self, minute: u16) -> bool {
        (self.from <= minute && minute < self.to) || minute + MINUTES_OF_WEEK < self.to
    }

    const fn meets(self, other: Self) -> bool {
        self.has(other.from) || other.has(self.from)
    }
}

/// A line with its declared rate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    link: LinkName,
    rate: Rate,
}

/// What may be sent at certain hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    link: LinkName,
    scopes: Vec<Scope>,
    hours: Vec<Hours>,
    most: Rate,
}

/// What holds for one scope of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceiling {
    /// For what.
    pub scope: Scope,
    /// The most that may be sent; `None`: no limit.
    pub most: Option<Rate>,
    /// Until when it stays so, Unix milliseconds; `None`: the plan never changes it.
    pub until_ms: Option<u64>,
}

/// What holds for a link at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// The rate that was declared for the line.
    pub declared: Option<Rate>,
    /// One for each scope, as in [`Scope::EACH`].
    pub ceilings: Vec<Ceiling>,
}

impl InForce {
    /// The most of a scope.
    #[must_use]
    pub fn most(&self, scope: Scope) -> Option<Rate> {
        self.ceilings.iter().find(|ceiling| ceiling.scope == scope)?.most
    }

    /// When any of it changes, Unix milliseconds.
    #[must_use]
    pub fn until_ms(&self) -> Option<u64> {
        self.ceilings.iter().filter_map(|ceiling| ceiling.until_ms).min()
    }
}

/// The plan of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    zone: TimeZone,
    lines: Vec<Line>,
    limits: Vec<Limit>,
    /// Where each neighbour is named first: file and line.
    named: BTreeMap<NodeName, (PathBuf, usize)>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { zone: TimeZone::UTC, lines: Vec::new(), limits: Vec::new(), named: BTreeMap::new() }
    }
}

impl Plan {
    /// The name of the time zone its hours are in.
    #[must_use]
    pub fn zone(&self) -> String {
        self.zone.iana_name().unwrap_or("UTC").to_owned()
    }

    /// The names of neighbours it speaks of.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.named.keys()
    }

    /// Whether it names no neighbour but these.
    ///
    /// # Errors
    /// [`ConfigError`] with the place of each that is unknown.
    pub(crate) fn only_names(&self, known: &BTreeSet<NodeName>) -> Result<(), ConfigError> {
        let unknown = self.named.iter().filter(|(name, _)| !known.contains(*name));
        let faults = unknown.map(|(name, (path, line))| Fault {
            path: path.clone(),
            line: Some(*line),
            key: "plan".to_owned(),
            why: format!(
                "{name} is no neighbour of this node: see `tram node list`, or say \"uplink\" or \"children\""
            ),
        });
        let faults: Vec<Fault> = faults.collect();
        if faults.is_empty() { Ok(()) } else { Err(ConfigError::Faults(faults)) }
    }

    /// What holds for the link to a neighbour.
    #[must_use]
    pub fn in_force(&self, peer: &NodeName, side: Side, wall_ms: u64) -> InForce {
        let declared = self.declared(peer, side);
        let now = Zoned::new(stamp(wall_ms), self.zone.clone());
        let ceilings = Scope::EACH.into_iter().map(|scope| {
            let (limits, otherwise) = self.limits_of(peer, side, scope, declared);
            let at = |moment: &Zoned| {
                let minute = minute_of_week(moment);
                limits.iter().find(|l| l.hours.iter().any(|h| h.has(minute))).map_or(otherwise, |l| Some(l.most))
            };
            let most = at(&now);
            let until = self.moments(&limits, &now).into_iter().find(|moment| at(moment) != most);
            Ceiling { scope, most, until_ms: until.and_then(|u| u64::try_from(u.timestamp().as_millisecond()).ok()) }
        });
        InForce { declared, ceilings: ceilings.collect() }
    }

    /// The week of one scope of a link: stretches of minutes with what holds in each.
    #[must_use]
    pub fn week(&self, peer: &NodeName, side: Side, scope: Scope) -> Vec<(Hours, Option<Rate>)> {
        let (limits, otherwise) = self.limits_of(peer, side, scope, self.declared(peer, side));
        let at = |minute: u16| {
            limits.iter().find(|l| l.hours.iter().any(|h| h.has(minute))).map_or(otherwise, |l| Some(l.most))
        };
        let mut week: Vec<(Hours, Option<Rate>)> = Vec::new();
        for minute in 0..MINUTES_OF_WEEK {
            let most = at(minute);
            match week.last_mut() {
                Some((hours, last)) if *last == most => hours.to = minute + 1,
                _ => week.push((Hours { from: minute, to: minute + 1 }, most)),
            }
        }
        week
    }

    /// What was declared of the line to a neighbour.
    pub(crate) fn declared(&self, peer: &NodeName, side: Side) -> Option<Rate> {
        let of = |link: &LinkName| self.lines.iter().find(|line| line.link == *link).map(|line| line.rate);
        of(&LinkName::Node(peer.clone())).or_else(|| of(&any_of(side)))
    }

    /// The limits that count for a scope of a link, and what holds when none of them does.
    fn limits_of(
        &self,
        peer: &NodeName,
        side: Side,
        scope: Scope,
        declared: Option<Rate>,
    ) -> (Vec<&Limit>, Option<Rate>) {
        let of = |link: &LinkName| -> Vec<&Limit> {
            self.limits.iter().filter(|l| l.link == *link && l.scopes.contains(&scope)).collect()
        };
        let own = of(&LinkName::Node(peer.clone()));
        let limits = if own.is_empty() { of(&any_of(side)) } else { own };
        let bulk = scope == Scope::Class(Precedence::Bulk);
        (limits, declared.filter(|_| bulk).map(|rate| rate.percent(BULK_PERCENT)))
    }

    /// The moments of the coming days at which something may change, in order.
    fn moments(&self, limits: &[&Limit], now: &Zoned) -> Vec<Zoned> {
        let Ok(first) = now.date().checked_sub(1.day()) else { return Vec::new() };
        let mut moments: Vec<Zoned> = Vec::new();
        let mut add = |date: Date, minute: u16| {
            let Some(time) = time_of(minute) else { return };
            // An hour that comes twice has two such moments; one that is skipped has the change itself.
            let moment = self.zone.to_ambiguous_zoned(date.to_datetime(time));
            moments.extend([moment.clone().earlier(), moment.later()].into_iter().flatten());
        };
        for day in 0..=DAYS + 1 {
            let Ok(date) = first.checked_add(day.days()) else { break };
            let monday = u16::try_from(date.weekday().to_monday_zero_offset()).unwrap_or(0) * MINUTES_OF_DAY;
            for hours in limits.iter().flat_map(|l| &l.hours) {
                for minute in [hours.from, hours.to % MINUTES_OF_WEEK] {
                    if (monday..monday + MINUTES_OF_DAY).contains(&minute) {
                        add(date, minute - monday);
                    }
                }
            }
        }
        let last = now.checked_add(DAYS.days()).ok();
        let changes = self.zone.following(now.timestamp()).map(|change| change.timestamp());
        let changes = changes.take_while(|at| last.as_ref().is_some_and(|last| *at <= last.timestamp()));
        moments.extend(changes.map(|at| Zoned::new(at, self.zone.clone())));
        moments.retain(|moment| moment > now);
        moments.sort();
        moments
    }
}

const fn any_of(side: Side) -> LinkName {
    match side {
        Side::Up(_) => LinkName::Uplink,
        Side::Down => LinkName::Children,
    }
}

fn stamp(wall_ms: u64) -> Timestamp {
    i64::try_from(wall_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn minute_of_week(moment: &Zoned) -> u16 {
    let day = u16::try_from(moment.weekday().to_monday_zero_offset()).unwrap_or(0);
    let (hour, minute) = (moment.hour().unsigned_abs(), moment.minute().unsigned_abs());
    day * MINUTES_OF_DAY + u16::from(hour) * 60 + u16::from(minute)
}

fn time_of(minute: u16) -> Option<Time> {
    let (hour, minute) = (i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?);
    Time::new(hour, minute, 0, 0).ok()
}

/// `mon 07:00`, for people; the end of a day is 24:00.
#[must_use]
pub fn minute_text(minute: u16, is_end: bool) -> String {
    let day = minute.saturating_sub(u16::from(is_end)) % MINUTES_OF_WEEK / MINUTES_OF_DAY;
    let of_day = match minute % MINUTES_OF_DAY {
        0 if is_end => MINUTES_OF_DAY,
        of_day => of_day,
    };
    let name = parse::DAYS.get(usize::from(day)).copied().unwrap_or("mon");
    format!("{name} {:02}:{:02}", of_day / 60, of_day % 60)
}
