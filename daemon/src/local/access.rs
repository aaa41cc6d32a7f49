//! Who may do what on the application socket, by the credentials the kernel gives for the peer.
//!
//! The daemon's own user and root may do everything. Everybody else needs a rule; several rules of one user add up.
//! Names are resolved when rules are loaded, groups of a caller at each call (members change while the daemon runs).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;

use bytesize::ByteSize;
use nix::unistd::{Gid, Group, Uid, User};
use serde::Deserialize;
use tram_proto::envelope::Precedence;
use tram_proto::name::Inbox;

use super::quota::{Allowance, FlashQuota};

/// A rule as it stands in the config.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Users it is for, by name or number.
    pub users: Vec<Id>,
    /// Groups it is for, by name or number.
    pub groups: Vec<Id>,
    /// Inboxes they may receive from and name as sender; `*` is every one.
    pub inboxes: Vec<String>,
    /// Whether they may send, and with which precedences.
    pub send: Send,
    /// What messages of such a user may take of the spool until they have ended; `None` says nothing.
    pub quota: Option<ByteSize>,
    /// How many documents such a user may send with flash, as `10/min`; `None` says nothing.
    pub flash: Option<String>,
    /// How many bytes of payload such a user may send with flash, as `5 MiB/h`; `None` says nothing.
    pub flash_bytes: Option<String>,
}

/// A user or group, by name or number.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Id {
    /// By number.
    Number(u32),
    /// By name, or a number in quotes.
    Name(String),
}

/// What a rule says about sending.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Send {
    /// All precedences but flash, or none.
    Any(bool),
    /// These precedences.
    Precedences(Vec<String>),
}

impl Default for Send {
    fn default() -> Self {
        Self::Any(false)
    }
}

/// Why rules cannot be taken as they stand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// Nobody of that name.
    #[error("access rule {rule}: there is no {what} {name:?} on this machine")]
    Unknown {
        /// The rule, counted from 1.
        rule: usize,
        /// "user" or "group".
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The rule is for nobody.
    #[error("access rule {0}: it names neither users nor groups")]
    Nobody(usize),
    /// An inbox or precedence is misspelt.
    #[error("access rule {rule}: {why}")]
    Word {
        /// The rule, counted from 1.
        rule: usize,
        /// What is wrong.
        why: String,
    },
}

impl AccessError {
    /// Counts the rule anew: it was looked at alone.
    pub(crate) const fn is_of(&mut self, number: usize) {
        match self {
            Self::Nobody(rule) | Self::Unknown { rule, .. } | Self::Word { rule, .. } => *rule = number,
        }
    }
}

/// What a caller may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grant {
    /// The operating system's user.
    pub uid: u32,
    /// The daemon's own user or root.
    pub everything: bool,
    every_inbox: bool,
    inboxes: BTreeSet<Inbox>,
    precedences: BTreeSet<Precedence>,
    quota_bytes: Option<u64>,
    /// How much flash the caller may send; what is over it is demoted.
    pub flash: FlashQuota,
}

impl Grant {
    /// Whether the caller may receive from an inbox and name it as sender.
    #[must_use]
    pub fn inbox(&self, inbox: &Inbox) -> bool {
        self.everything || self.every_inbox || self.inboxes.contains(inbox)
    }

    /// Whether the caller may send with a precedence.
    #[must_use]
    pub fn send(&self, precedence: Precedence) -> bool {
        self.everything || self.precedences.contains(&precedence)
    }

    /// What the caller's messages may take of the spool until they have ended, in bytes; `None`: no limit of its own.
    #[must_use]
    pub const fn quota_bytes(&self) -> Option<u64> {
        if self.everything { None } else { self.quota_bytes }
    }

    /// Whether the caller may do anything at all.
    #[must_use]
    pub fn anything(&self) -> bool {
        self.everything || self.every_inbox || !self.inboxes.is_empty() || !self.precedences.is_empty()
    }

    fn add(&mut self, other: &Self) {
        self.every_inbox |= other.every_inbox;
        self.inboxes.extend(other.inboxes.iter().cloned());
        self.precedences.extend(other.precedences.iter().copied());
        // A rule without a quota says nothing; of several the largest counts.
        self.quota_bytes = self.quota_bytes.max(other.quota_bytes);
        self.flash = self.flash.or_larger(other.flash);
    }
}

/// The rules in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Root and the daemon's own user.
    trusted: [u32; 2],
    users: BTreeMap<u32, Grant>,
    groups: BTreeMap<u32, Grant>,
}

impl Access {
    /// Only the daemon's own user and root.
    #[must_use]
    pub fn own_user() -> Self {
        Self { trusted: [0, Uid::effective().as_raw()], users: BTreeMap::new(), groups: BTreeMap::new() }
    }

    /// Resolves the rules of the config. Blocking: asks the system's user database.
    ///
    /// # Errors
    /// [`AccessError`] naming the rule.
    pub fn resolve(rules: &[Rule]) -> Result<Self, AccessError> {
        let mut access = Self::own_user();
        for (rule, number) in rules.iter().zip(1..) {
            if rule.users.is_empty() && rule.groups.is_empty() {
                return Err(AccessError::Nobody(number));
            }
            let grant = grant_of(rule).map_err(|why| AccessError::Word { rule: number, why })?;
            let unknown = |what, id: &Id| AccessError::Unknown { rule: number, what, name: id.text() };
            for user in &rule.users {
                let find = |name: &str| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
                let uid = user.resolve(find).ok_or_else(|| unknown("user", user))?;
                access.users.entry(uid).or_default().add(&grant);
            }
            for group in &rule.groups {
                let find = |name: &str| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
                let gid = group.resolve(find).ok_or_else(|| unknown("group", group))?;
                access.groups.entry(gid).or_default().add(&grant);
            }
        }
        Ok(access)
    }

    /// Whether the groups of a user have to be looked up, which may block.
    pub(super) fn asks_for_groups(&self, uid: u32) -> bool {
        !self.is_own(uid) && !self.groups.is_empty()
    }

    /// Whether the user is the daemon's own or root.
    #[must_use]
    pub fn is_own(&self, uid: u32) -> bool {
        self.trusted.contains(&uid)
    }

    /// What the caller with these credentials may do. Blocking when a rule is for groups.
    #[must_use]
    pub fn grant(&self, uid: u32, gid: u32) -> Grant {
        self.grant_in(uid, || groups_of(uid, gid))
    }

    fn grant_in(&self, uid: u32, groups: impl FnOnce() -> Vec<u32>) -> Grant {
        let mut grant = Grant { uid, everything: self.is_own(uid), ..Grant::default() };
        if grant.everything {
            // Flash costs everybody else: a rule that names root or the daemon's own user holds for them too.
            grant.flash = self.users.get(&uid).map(|own| own.flash).unwrap_or_default();
            return grant;
        }
        if let Some(own) = self.users.get(&uid) {
            grant.add(own);
        }
        if !self.groups.is_empty() {
            groups().iter().filter_map(|gid| self.groups.get(gid)).for_each(|group| grant.add(group));
        }
        grant
    }
}

impl Id {
    fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Name(name) => name.clone(),
        }
    }

    fn resolve(&self, find: impl FnOnce(&str) -> Option<u32>) -> Option<u32> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Name(name) => find(name).or_else(|| name.parse().ok()),
        }
    }
}

fn grant_of(rule: &Rule) -> Result<Grant, String> {
    let mut grant = Grant::default();
    for inbox in &rule.inboxes {
        if inbox == "*" {
            grant.every_inbox = true;
        } else {
            grant.inboxes.insert(inbox.parse().map_err(|error: tram_proto::name::NameError| error.to_string())?);
        }
    }
    match &rule.send {
        Send::Any(false) => {}
        // Flash overtakes everything on every link, so a rule has to name it.
        Send::Any(true) => grant.precedences.extend(Precedence::ALL.into_iter().filter(|p| *p != Precedence::Flash)),
        Send::Precedences(words) => {
            for word in words {
                grant.precedences.insert(word.parse()?);
            }
        }
    }
    let flash =
        |text: &Option<String>, of_bytes| text.as_deref().map(|text| Allowance::parse(text, of_bytes)).transpose();
    grant.flash = FlashQuota { documents: flash(&rule.flash, false)?, bytes: flash(&rule.flash_bytes, true)? };
    grant.quota_bytes = rule.quota.map(|quota| quota.as_u64());
    if grant.quota_bytes == Some(0) {
        return Err("a quota of 0 lets nothing be sent: leave it out for no quota, or say send = false".to_owned());
    }
    Ok(grant)
}

fn groups_of(uid: u32, gid: u32) -> Vec<u32> {
    let supplementary = User::from_uid(Uid::from_raw(uid))
        .ok()
        .flatten()
        .and_then(|user| CString::new(user.name).ok())
        .and_then(|name| nix::unistd::getgrouplist(&name, Gid::from_raw(gid)).ok())
        .unwrap_or_default();
    supplementary.into_iter().map(Gid::as_raw).chain([gid]).collect()
}

#[cfg(test)]
impl Access {
    /// Rules under which the test's own user counts as another one.
    pub(super) fn nobody_own() -> Self {
        Self { trusted: [u32::MAX; 2], ..Self::own_user() }
    }

    pub(super) fn with(self, rules: &[Rule]) -> Self {
        let resolved = Self::resolve(rules).expect("resolves");
        Self { users: resolved.users, groups: resolved.groups, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<Rule> {
        #[derive(Deserialize)]
        struct Config {
            rule: Vec<Rule>,
        }
        toml::from_str::<Config>(text).expect("parses").rule
    }

    #[test]
    fn without_a_rule_only_root_and_the_own_user_may() {
        let access = Access { trusted: [0, 990], ..Access::own_user() };
        for (uid, may) in [(0, true), (990, true), (1000, false), (u32::MAX - 1, false)] {
            let grant = access.grant(uid, uid);
            assert_eq!((grant.everything, grant.anything()), (may, may), "{uid}");
            assert_eq!(grant.send(Precedence::Bulk), may);
        }
    }

    #[test]
    fn rules_for_user_and_groups_add_up() {
        let text = r#"
            rule = [
                { users = [1000], inboxes = ["vanban"], send = ["routine", "flash"] },
                { groups = [50], inboxes = ["khan"], send = true },
                { groups = [60], inboxes = ["*"] },
            ]
        "#;
        let access = Access { trusted: [0, 990], ..Access::resolve(&rules(text)).expect("resolves") };
        let (vanban, khan) = ("vanban".parse().expect("inbox"), "khan".parse().expect("inbox"));
        #[track_caller]
        fn check(grant: &Grant, inboxes: [(&Inbox, bool); 2], send: &[Precedence]) {
            for (inbox, may) in inboxes {
                assert_eq!(grant.inbox(inbox), may, "{inbox}");
            }
            for precedence in Precedence::ALL {
                assert_eq!(grant.send(precedence), send.contains(&precedence), "{precedence}");
            }
        }
        use Precedence::{Bulk, Flash, Immediate, Priority, Routine};
        check(&access.grant_in(1000, || vec![1000]), [(&vanban, true), (&khan, false)], &[Routine, Flash]);
        let all = [Routine, Flash, Bulk, Immediate, Priority];
        check(&access.grant_in(1000, || vec![50]), [(&vanban, true), (&khan, true)], &all);
        check(
            &access.grant_in(1001, || vec![7, 50]),
            [(&vanban, false), (&khan, true)],
            &all[..1].iter().chain(&all[2..]).copied().collect::<Vec<_>>(),
        );
        check(&access.grant_in(1001, || vec![60]), [(&vanban, true), (&khan, true)], &[]);
        assert!(!access.grant_in(1001, Vec::new).anything());
    }

    #[test]
    fn of_several_quotas_the_largest_counts_and_a_rule_without_one_says_nothing() {
        let text = r#"
            rule = [
                { users = [1000], send = true },
                { users = [1001], send = true, quota = "10 MB" },
                { groups = [50], send = true, quota = "500 MB" },
                { groups = [60], inboxes = ["*"] },
                { users = [990], send = true, quota = "1 KiB" },
            ]
        "#;
        let access = Access { trusted: [0, 990], ..Access::resolve(&rules(text)).expect("resolves") };
        #[track_caller]
        fn check(access: &Access, uid: u32, groups: &[u32], quota: Option<u64>) {
            assert_eq!(access.grant_in(uid, || groups.to_vec()).quota_bytes(), quota, "{uid} in {groups:?}");
        }
        check(&access, 1000, &[1000], None);
        check(&access, 1000, &[50, 60], Some(500_000_000));
        check(&access, 1001, &[60], Some(10_000_000));
        check(&access, 1001, &[50], Some(500_000_000));
        // The daemon's own user and root have none, whatever a rule says.
        check(&access, 990, &[50], None);
        check(&access, 0, &[50], None);
    }

    #[test]
    fn a_rule_that_cannot_be_meant_names_itself() {
        #[track_caller]
        fn check(rule: &str, part: &str) {
            let text = Access::resolve(&rules(&format!("rule = [{rule}]"))).expect_err("refused").to_string();
            assert!(text.contains("rule 1") && text.contains(part), "{text}");
        }
        check(r#"{ send = true }"#, "neither users nor groups");
        check(r#"{ users = ["no-such-user-here"] }"#, "no-such-user-here");
        check(r#"{ groups = ["no-such-group-here"] }"#, "no group");
        check(r#"{ users = [1], inboxes = ["Văn bản"] }"#, "not an inbox name");
        check(r#"{ users = [1], send = ["urgent"] }"#, "not a precedence");
        check(r#"{ users = [1], send = true, quota = "0 B" }"#, "quota of 0");
        check(r#"{ users = [1], send = true, flash = "10" }"#, "10/min");
    }

    #[test]
    fn the_groups_of_root_are_found() {
        assert!(groups_of(0, 0).contains(&0));
    }
}
