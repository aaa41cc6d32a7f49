//! The table of keys: what each means, what it takes, its default, and whether a reload takes it over.
//!
//! `docs/admin/config.md` and `tramd.toml(5)` hold what this table says, which a test compares; `tram config explain` and
//! `tram reload` speak from it.

/// A key of the config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// With its section, as in `spool.max`.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What it takes.
    pub form: &'static str,
    /// What holds when it is left out.
    pub default: &'static str,
    /// A reload takes it over; otherwise it needs a restart.
    pub reloads: bool,
}

const RELOAD: bool = true;
const RESTART: bool = false;

/// Sections that may stand several times.
const LISTS: [&str; 4] = ["uplink", "access.rule", "plan.line", "plan.limit"];

const fn key(
    name: &'static str,
    meaning: &'static str,
    form: &'static str,
    default: &'static str,
    reloads: bool,
) -> Key {
    Key { name, meaning, form, default, reloads }
}

/// Every key there is, in the order of the documentation.
#[rustfmt::skip]
pub const KEYS: [Key; 31] = [
    key("node.title", "shown to people beside the node's name", "text", "empty", RESTART),
    key("node.timezone", "the time zone of the hours in `[plan]`", "an IANA name such as `Asia/Ho_Chi_Minh`", "the machine's", RELOAD),
    key("listen.overlay", "where neighbours dial in", "IP:PORT, UDP", "none: this node only dials", RESTART),
    key("listen.join", "where new nodes join while a token is live", "IP:PORT, UDP", "none", RESTART),
    key("listen.advertise", "`overlay` as others dial it; tokens name it", "HOST:PORT", "`overlay`, unless that is a wildcard", RESTART),
    key("listen.congestion", "how this node sends to those that dial in; `cubic` and `bbr` are for comparison", "`tram`, `cubic` or `bbr`", "`tram`", RESTART),
    key("uplink.node", "the parent's node name, checked against its certificate", "a node name", "required", RELOAD),
    key("uplink.addresses", "where to dial it, tried in order", "a list of HOST:PORT", "required, at least one", RELOAD),
    key("uplink.congestion", "how this node sends to this parent", "`tram`, `cubic` or `bbr`", "`tram`", RELOAD),
    key("access.inboxes", "inboxes declared here; `tram inbox create` declares more", "a list of inbox names", "none; `init` and `join` write `vanban`", RESTART),
    key("access.labels", "classification labels that may be sent from here", "a list of texts", "none: every label is refused", RESTART),
    key("access.rule.users", "who the rule is for, by name or number", "a list of users", "empty", RELOAD),
    key("access.rule.groups", "the same for groups, supplementary ones too", "a list of groups", "empty", RELOAD),
    key("access.rule.inboxes", "may receive from these and name them as sender; `\"*\"` is every one", "a list of inbox names", "none", RELOAD),
    key("access.rule.send", "whether they may send: `true` is every precedence but flash", "`true`, `false` or a list of precedences", "`false`", RELOAD),
    key("access.rule.quota", "what the messages of each such user may take of the spool until they have ended; of several rules of one user the largest counts, a rule without one says nothing", "a size more than 0, such as `500 MB`", "no limit of its own", RELOAD),
    key("access.rule.flash", "documents with flash that each such user may send; what is over it goes as immediate", "a number per `s`, `min`, `h` or `day`, such as `10/min`", "no limit", RELOAD),
    key("access.rule.flash_bytes", "the same for their payload", "a size per `s`, `min`, `h` or `day`, such as `5 MiB/h`", "no limit", RELOAD),
    key("plan.line.link", "`uplink`, `children` (each of them) or a neighbour's name, which goes before", "a word or a node name", "required", RELOAD),
    key("plan.line.rate", "what the line carries, by its contract, in bits of IP packets a second", "a rate such as `20mbit` (`kbit`, `mbit`, `gbit`)", "required", RELOAD),
    key("plan.limit.link", "`uplink`, `children` or a neighbour's name", "a word or a node name", "required", RELOAD),
    key("plan.limit.classes", "which precedences the limit is for, each for itself", "a list of precedences", "all together", RELOAD),
    key("plan.limit.days", "on which days it holds", "a list of `mon` to `sun`, or `mon-fri`", "every day", RELOAD),
    key("plan.limit.hours", "at which hours it holds; `22:00-06:00` goes on into the next day", "hours such as `07:00-17:30`", "the whole day", RELOAD),
    key("plan.limit.most", "what may be sent then", "`30%` of the declared line, or a rate such as `2mbit`", "required", RELOAD),
    key("spool.max", "the most messages and payloads take", "a size such as `50GiB`", "what the disk has", RESTART),
    key("spool.keep_free", "stays free on the disk for acknowledgements and receipts", "a size such as `64MiB`", "64MiB", RESTART),
    key("spool.cache", "memory for the index; `32MiB` on a relay with many children", "a size such as `4MiB`", "4MiB", RESTART),
    key("http.listen", "where `/livez`, `/readyz` and `/metrics` are served to this machine; other than loopback addresses are refused, for the door has no keys yet; `\"\"`: nowhere", "IP:PORT, TCP", "`127.0.0.1:7480`; with `--dir` nowhere", RESTART),
    key("log.level", "what is logged", "error, warn, info, debug, trace, or a filter of the `tracing` library such as `info,tramd::link=debug`", "info", RESTART),
    key("log.format", "how log lines look, one line an event, to stderr", "`text` or `json`", "text", RESTART),
];

/// The key of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether a key is `of`, or in that section.
#[must_use]
pub fn is_within(name: &str, of: &str) -> bool {
    name.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether a reload takes over a key, or every key of a section that it takes over as a whole.
#[must_use]
pub fn reloads(of: &str) -> bool {
    KEYS.iter().filter(|key| is_within(key.name, of)).all(|key| key.reloads)
}

/// The key of an entry, without the numbers of lists: `uplink[1].node` is `uplink.node`.
#[must_use]
pub fn plain(key: &str) -> String {
    let mut name = String::with_capacity(key.len());
    let mut number = false;
    for c in key.chars() {
        match c {
            '[' => number = true,
            ']' => number = false,
            c if !number => name.push(c),
            _ => {}
        }
    }
    name
}

/// The list of which `key` names one entry.
pub(super) fn list_of(key: &str) -> Option<&str> {
    key.strip_suffix(']')?.rsplit_once('[').map(|(list, _)| list)
}

impl Key {
    /// Section and key as they are written in the file, such as `[[uplink]]` and `node`.
    #[must_use]
    pub fn written(&self) -> (String, &'static str) {
        let (section, key) = self.name.rsplit_once('.').unwrap_or(("", self.name));
        let section = if LISTS.contains(&section) { format!("[[{section}]]") } else { format!("[{section}]") };
        (section, key)
    }

    /// `reload` or `restart`.
    #[must_use]
    pub const fn takes_effect(&self) -> &'static str {
        if self.reloads { "reload" } else { "restart" }
    }
}
