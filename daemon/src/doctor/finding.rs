//! What can be wrong with a node, in words of two languages.
//!
//! Owns code, text and cure of each finding. Codes never change. Never holds anything secret: paths, names, numbers.

use std::path::PathBuf;

use tram_proto::local as api;

use crate::config::Fault;

/// In which language a person is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Language {
    /// English.
    #[default]
    English,
    /// Vietnamese.
    Vietnamese,
}

impl Language {
    /// `vi` is Vietnamese, all else English.
    #[must_use]
    pub fn of(word: &str) -> Self {
        if word == "vi" { Self::Vietnamese } else { Self::English }
    }
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// Whether the daemon runs, and what it says of itself.
    Daemon,
    /// The config.
    Config,
    /// Files, their owners and permissions.
    Files,
    /// Keys and certificates.
    Certificates,
    /// The clock.
    Clock,
    /// The spool's disk.
    Disk,
    /// UDP and the way to the uplinks.
    Network,
}

impl Area {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 7] =
        [Self::Daemon, Self::Config, Self::Files, Self::Certificates, Self::Clock, Self::Disk, Self::Network];

    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Config => "config",
            Self::Files => "files",
            Self::Certificates => "certificates",
            Self::Clock => "clock",
            Self::Disk => "disk",
            Self::Network => "network",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Nobody answers on the admin socket. With what stands after `tramd` to start it.
    Stopped(String),
    /// No uplink is up, with the reason for each.
    NoUplink(String),
    /// Messages are late: how many, and one of them.
    Late(usize, String),
    /// A neighbour gets no link.
    Held(String),
    /// A queue is paused.
    Paused(String),
    /// The daemon does not trust the clock.
    ClockUntrusted,
    /// The spool has no room, in bytes.
    SpoolLow(u64),
    /// A config file cannot be read.
    ConfigUnreadable(PathBuf, String),
    /// A mistake in the config.
    ConfigFault(Fault),
    /// A file in conf.d that is not read.
    ConfigIgnored(PathBuf),
    /// A key of the config that waits for a reload or a restart.
    ConfigWaits(String, bool),
    /// It is not there.
    Missing(PathBuf),
    /// Others may do what they should not: path, mode, what it should be.
    Mode(PathBuf, u32, u32),
    /// It belongs to another user than the directory of the keys: path, owner, the right one.
    Owner(PathBuf, u32, u32),
    /// It was left behind.
    Leftover(PathBuf),
    /// Keys or certificates cannot be used: what the PKI says.
    Keys(String),
    /// What the PKI says of certificates of a running node.
    Certificates(String),
    /// Whole days that are left to the node's certificate while the daemon is not there to renew it.
    CertificateEnds(u64),
    /// Days since it ended.
    CertificateEnded(u64),
    /// So many revocation lists are older than they may be.
    ListsStale(usize),
    /// No CA that is trusted here certifies this name.
    NoAuthority(String),
    /// The neighbour's clock minus this one, in milliseconds.
    ClockOffset(String, i64),
    /// The clock shows a time before this, which is past: what it is, by so many seconds.
    ClockBehind(PathBuf, u64),
    /// Free bytes of the disk, and how many there should be.
    DiskLow(PathBuf, u64, u64),
    /// The spool may take more than the disk has.
    DiskSmall(PathBuf, u64, u64),
    /// The spool's directory cannot be written.
    DiskRefuses(PathBuf, String),
    /// Milliseconds of a fsync.
    DiskSlow(PathBuf, u64),
    /// Space of what was delivered comes back only with a whole pack.
    NoHoles(PathBuf),
    /// The kernel gives sockets so little: the sysctl, bytes now, bytes that are wanted.
    SocketBuffers(&'static str, u64, u64),
    /// A host name that is not found: where it stands, the name, why.
    Unresolved(String, String, String),
    /// Nobody answers at an address of an uplink.
    NoAnswer(String, String),
    /// Only packets up to so many bytes arrive.
    SmallPackets(String, String, usize),
    /// It answers but there is no link: why.
    NoLink(String, String),
}

fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).to_string()
}

/// What is wrong, and what to do, of a text that has both.
fn halves(text: &str, otherwise: &str) -> (String, String) {
    match text.split_once(": ") {
        // A path before the first colon is no sentence.
        Some((what, cure)) if what.contains(' ') => (what.to_owned(), cure.to_owned()),
        _ => (text.to_owned(), otherwise.to_owned()),
    }
}

impl Finding {
    /// Where it belongs, and its word for scripts.
    #[must_use]
    pub const fn code(&self) -> (Area, &'static str) {
        match self {
            Self::Stopped(_) => (Area::Daemon, "not_running"),
            Self::NoUplink(_) => (Area::Network, "no_uplink"),
            Self::Late(..) => (Area::Daemon, "late"),
            Self::Held(_) => (Area::Daemon, "held"),
            Self::Paused(_) => (Area::Daemon, "paused"),
            Self::ClockUntrusted => (Area::Clock, "clock_untrusted"),
            Self::SpoolLow(_) => (Area::Disk, "spool_low"),
            Self::ConfigUnreadable(..) => (Area::Config, "config_unreadable"),
            Self::ConfigFault(_) => (Area::Config, "config_fault"),
            Self::ConfigIgnored(_) => (Area::Config, "config_ignored"),
            Self::ConfigWaits(..) => (Area::Config, "config_waits"),
            Self::Missing(_) => (Area::Files, "missing"),
            Self::Mode(..) => (Area::Files, "mode"),
            Self::Owner(..) => (Area::Files, "owner"),
            Self::Leftover(_) => (Area::Files, "leftover"),
            Self::Keys(_) => (Area::Certificates, "keys"),
            Self::Certificates(_) => (Area::Certificates, "certificates"),
            Self::CertificateEnds(_) => (Area::Certificates, "certificate_ends"),
            Self::CertificateEnded(_) => (Area::Certificates, "certificate_ended"),
            Self::ListsStale(_) => (Area::Certificates, "lists_stale"),
            Self::NoAuthority(_) => (Area::Certificates, "no_authority"),
            Self::ClockOffset(..) => (Area::Clock, "clock_offset"),
            Self::ClockBehind(..) => (Area::Clock, "clock_behind"),
            Self::DiskLow(..) => (Area::Disk, "disk_low"),
            Self::DiskSmall(..) => (Area::Disk, "disk_small"),
            Self::DiskRefuses(..) => (Area::Disk, "disk_refuses"),
            Self::DiskSlow(..) => (Area::Disk, "disk_slow"),
            Self::NoHoles(_) => (Area::Disk, "no_holes"),
            Self::SocketBuffers(..) => (Area::Network, "socket_buffers"),
            Self::Unresolved(..) => (Area::Network, "unresolved"),
            Self::NoAnswer(..) => (Area::Network, "no_answer"),
            Self::SmallPackets(..) => (Area::Network, "small_packets"),
            Self::NoLink(..) => (Area::Network, "no_link"),
        }
    }

    /// Both halves on one line, in English.
    #[must_use]
    pub fn line(&self) -> String {
        let (what, cure) = self.english();
        format!("{what}: {cure}")
    }

    /// What is wrong and what to do.
    #[must_use]
    pub fn words(&self, language: Language) -> (String, String) {
        match language {
            Language::English => self.english(),
            Language::Vietnamese => self.vietnamese(),
        }
    }

    /// As it goes over the socket.
    #[must_use]
    pub fn view(&self, language: Language) -> api::Finding {
        let ((area, code), (what, cure)) = (self.code(), self.words(language));
        api::Finding { area: area.word().to_owned(), code: code.to_owned(), what, cure }
    }

    fn english(&self) -> (String, String) {
        let both = |what: String, cure: &str| (what, cure.to_owned());
        match self {
            Self::Stopped(run) => {
                ("the daemon does not run".to_owned(), format!("`systemctl start tramd`, or `tramd{run} run`"))
            }
            Self::NoUplink(why) => both(format!("no uplink is up ({why})"), "mail upwards waits here, nothing is lost"),
            Self::Late(count, first) => both(
                format!("{count} of the messages have passed the time that was set for them, {first} among them"),
                "see `tram trace`",
            ),
            Self::Held(peer) => (format!("{peer} is held"), cure_of_held(peer)),
            Self::Paused(hop) => {
                (format!("the queue of {hop} is paused"), format!("end it with `tram queue resume {hop}`"))
            }
            Self::ClockUntrusted => both(
                "the clock is not trusted".to_owned(),
                "set it (`timedatectl set-ntp true`); nothing expires meanwhile",
            ),
            Self::SpoolLow(bytes) => both(
                format!("the spool is nearly full: {bytes} bytes are free for messages"),
                "take mail with `tram recv`, or give it more disk; delete nothing in it",
            ),
            Self::ConfigUnreadable(path, why) => {
                (format!("{}: {why}", path.display()), "let the daemon's user read it".to_owned())
            }
            Self::ConfigFault(fault) => {
                (fault.to_string(), "correct it, then `tram config check` and `tram reload`".to_owned())
            }
            Self::ConfigIgnored(path) => (
                format!("{} is not read", path.display()),
                "give it a name that ends in .toml, or take it away".to_owned(),
            ),
            Self::ConfigWaits(key, true) => {
                (format!("{key} was changed in the files and is not in force"), "`tram reload`".to_owned())
            }
            Self::ConfigWaits(key, false) => {
                (format!("{key} was changed in the files and needs a restart"), "`systemctl restart tramd`".to_owned())
            }
            Self::Missing(path) => (
                format!("{} is missing", path.display()),
                "`tramd init` or `tramd join` makes it; a backup has it".to_owned(),
            ),
            Self::Mode(path, mode, right) => (
                format!("{} is open to other users (mode {mode:04o})", path.display()),
                format!("`chmod {right:04o} {}`; renew a key that others could read", path.display()),
            ),
            Self::Owner(path, owner, right) => (
                format!("{} belongs to user {owner}, the keys' directory to user {right}", path.display()),
                format!("`chown {right} {}`", path.display()),
            ),
            Self::Leftover(path) => (
                format!("{} was left behind", path.display()),
                "look what it is; when nobody needs it, delete it".to_owned(),
            ),
            Self::Keys(why) => halves(why, "restore keys and certificates from one backup, or join again"),
            Self::Certificates(why) => halves(why, "see `tram pki status` and docs/admin/certificates.md"),
            Self::CertificateEnds(days) => both(
                format!("{days} days are left to this node's certificate"),
                "start the node: it renews it by itself",
            ),
            Self::CertificateEnded(days) => both(
                format!("this node's certificate ended {days} days ago"),
                "start the node: up to 30 days after its end it renews it by itself; later, join again",
            ),
            Self::ListsStale(count) => both(
                format!("{count} revocation lists are older than they may be"),
                "start the node: its neighbours bring the newest",
            ),
            Self::NoAuthority(name) => both(
                format!("no CA that is trusted here may certify {name}"),
                "ask the admin of the first node; docs/admin/certificates.md, \"who certifies whom\"",
            ),
            Self::ClockOffset(peer, ms) => {
                let (ahead, s) = (if *ms < 0 { "ahead of" } else { "behind" }, ms.unsigned_abs() / 1000);
                both(
                    format!("this clock is {s} s {ahead} that of {peer}"),
                    "`timedatectl set-ntp true` on the one that is wrong",
                )
            }
            Self::ClockBehind(path, s) => both(
                format!("the clock is behind: {} was made {s} s after what it shows", path.display()),
                "set it (`timedatectl set-ntp true`)",
            ),
            Self::DiskLow(path, free, wanted) => (
                format!("{} has {} free, less than {}", path.display(), size(*free), size(*wanted)),
                "make room on this disk, or move the spool to a larger one; delete nothing in it".to_owned(),
            ),
            Self::DiskSmall(path, max, disk) => (
                format!("[spool] max is {}, the disk of {} has {}", size(*max), path.display(), size(*disk)),
                "lower it, or give it a larger disk".to_owned(),
            ),
            Self::DiskRefuses(path, why) => (
                format!("{} cannot be written: {why}", path.display()),
                "mount it read-write; it belongs to the daemon's user".to_owned(),
            ),
            Self::DiskSlow(path, ms) => (
                format!("the disk of {} takes {ms} ms to make a write durable", path.display()),
                "each document waits that long at this node: see whether the disk is failing (`smartctl -a`) or overloaded"
                    .to_owned(),
            ),
            Self::NoHoles(path) => (
                format!("the filesystem of {} gives no part of a file back", path.display()),
                "use ext4, xfs or btrfs; until then delivered documents take space until their whole pack is done"
                    .to_owned(),
            ),
            Self::SocketBuffers(sysctl, bytes, wanted) => (
                format!("{sysctl} is {bytes}: packets are lost at high rates"),
                format!("`sysctl -w {sysctl}={wanted}`, the same line in /etc/sysctl.d/60-tram.conf, and restart tramd"),
            ),
            Self::Unresolved(key, name, why) => (
                format!("{key}: the name {name} is not found ({why})"),
                "correct it, or ask whoever runs your DNS; an IP address works without".to_owned(),
            ),
            Self::NoAnswer(node, address) => (
                format!("{node} does not answer at UDP {address}"),
                "a firewall on the way, another port, a missing DNAT at its router, or its daemon is stopped; `tcpdump -n udp port N` there shows which"
                    .to_owned(),
            ),
            Self::SmallPackets(node, address, bytes) => (
                format!("only packets of up to {bytes} bytes reach {node} at {address}"),
                "the link works; a VPN or router with a smaller MTU makes it slower than it could be".to_owned(),
            ),
            Self::NoLink(node, why) => (
                format!("{node} answers, and there is no link to it: {why}"),
                "see its log and this one's; `tram pki status` on both".to_owned(),
            ),
        }
    }

    fn vietnamese(&self) -> (String, String) {
        let both = |what: String, cure: &str| (what, cure.to_owned());
        match self {
            Self::Stopped(run) => {
                ("tramd không chạy".to_owned(), format!("`systemctl start tramd`, hoặc `tramd{run} run`"))
            }
            Self::NoUplink(why) => both(
                format!("không nối được với nút trên nào ({why})"),
                "văn bản đi lên chờ ở đây, không mất gì; xem các dòng về mạng",
            ),
            Self::Late(count, first) => {
                both(format!("{count} văn bản đã quá giờ hẹn, trong đó có {first}"), "xem bằng `tram trace`")
            }
            Self::Held(peer) => (
                format!("nút {peer} đang bị giữ lại: kho của nó bị khôi phục từ bản cũ hoặc đĩa bị sao chép"),
                format!("làm trống thư mục spool ở đó, hoặc nếu chỉ có một máy mang tên này: `tram node accept {peer}`"),
            ),
            Self::Paused(hop) => (format!("hàng đợi của {hop} đang tạm dừng"), format!("`tram queue resume {hop}`")),
            Self::ClockUntrusted => both(
                "đồng hồ không đáng tin".to_owned(),
                "đặt lại giờ (`timedatectl set-ntp true`); trong lúc đó không văn bản nào bị coi là hết hạn",
            ),
            Self::SpoolLow(bytes) => both(
                format!("kho gần đầy: còn {bytes} byte cho văn bản"),
                "lấy văn bản bằng `tram recv`, hoặc thêm đĩa; không xóa gì trong kho",
            ),
            Self::ConfigUnreadable(path, why) => {
                (format!("{}: {why}", path.display()), "cho người dùng của tramd quyền đọc".to_owned())
            }
            Self::ConfigFault(fault) => (
                format!("cấu hình sai: {fault}"),
                "sửa lại, rồi chạy `tram config check` và `tram reload`".to_owned(),
            ),
            Self::ConfigIgnored(path) => {
                (format!("{} không được đọc", path.display()), "đặt tên có đuôi .toml, hoặc bỏ đi".to_owned())
            }
            Self::ConfigWaits(key, true) => {
                (format!("{key} đã đổi trong tệp cấu hình nhưng chưa có hiệu lực"), "`tram reload`".to_owned())
            }
            Self::ConfigWaits(key, false) => (
                format!("{key} đã đổi trong tệp cấu hình, cần khởi động lại"),
                "`systemctl restart tramd`".to_owned(),
            ),
            Self::Missing(path) => (
                format!("thiếu {}", path.display()),
                "`tramd init` hoặc `tramd join` tạo ra nó; bản sao lưu cũng có".to_owned(),
            ),
            Self::Mode(path, mode, right) => (
                format!("người dùng khác truy cập được {} (quyền {mode:04o})", path.display()),
                format!("`chmod {right:04o} {}`; khóa đã có thể bị đọc thì đổi khóa mới", path.display()),
            ),
            Self::Owner(path, owner, right) => (
                format!("{} thuộc người dùng {owner}, thư mục khóa thuộc người dùng {right}", path.display()),
                format!("`chown {right} {}`", path.display()),
            ),
            Self::Leftover(path) => (
                format!("{} còn sót lại", path.display()),
                "xem đó là gì; nếu không ai cần thì xóa".to_owned(),
            ),
            Self::Keys(why) => {
                let (what, cure) = halves(why, "phục hồi khóa và chứng thư từ cùng một bản sao lưu, hoặc tham gia lại");
                (format!("khóa và chứng thư: {what}"), cure)
            }
            Self::Certificates(why) => {
                let (what, cure) = halves(why, "xem `tram pki status` và docs/admin/certificates.md");
                (format!("chứng thư: {what}"), cure)
            }
            Self::CertificateEnds(days) => {
                both(format!("chứng thư của nút này còn {days} ngày"), "chạy tramd: nó tự gia hạn")
            }
            Self::CertificateEnded(days) => both(
                format!("chứng thư của nút này đã hết hạn {days} ngày"),
                "chạy tramd: trong 30 ngày sau khi hết hạn nó tự gia hạn; lâu hơn thì tham gia lại",
            ),
            Self::ListsStale(count) => {
                both(format!("{count} danh sách thu hồi đã quá cũ"), "chạy tramd: các nút bên cạnh sẽ đưa bản mới nhất")
            }
            Self::NoAuthority(name) => both(
                format!("không có CA nào được tin ở đây có quyền chứng thực {name}"),
                "hỏi người quản trị nút đầu tiên; docs/admin/certificates.md",
            ),
            Self::ClockOffset(peer, ms) => {
                let (ahead, s) = (if *ms < 0 { "nhanh" } else { "chậm" }, ms.unsigned_abs() / 1000);
                both(
                    format!("đồng hồ máy này {ahead} hơn {peer} {s} giây"),
                    "`timedatectl set-ntp true` ở máy sai giờ",
                )
            }
            Self::ClockBehind(path, s) => both(
                format!("đồng hồ chậm: {} được tạo {s} giây sau giờ đang hiện", path.display()),
                "đặt lại giờ (`timedatectl set-ntp true`)",
            ),
            Self::DiskLow(path, free, wanted) => (
                format!("{} còn trống {}, ít hơn {}", path.display(), size(*free), size(*wanted)),
                "dọn đĩa này, hoặc chuyển kho sang đĩa lớn hơn; không xóa gì trong kho".to_owned(),
            ),
            Self::DiskSmall(path, max, disk) => (
                format!("[spool] max là {}, đĩa của {} chỉ có {}", size(*max), path.display(), size(*disk)),
                "giảm số đó, hoặc dùng đĩa lớn hơn".to_owned(),
            ),
            Self::DiskRefuses(path, why) => (
                format!("không ghi được vào {}: {why}", path.display()),
                "gắn đĩa ở chế độ đọc-ghi; thư mục phải thuộc người dùng của tramd".to_owned(),
            ),
            Self::DiskSlow(path, ms) => (
                format!("đĩa của {} cần {ms} ms để ghi chắc chắn", path.display()),
                "mỗi văn bản phải chờ từng ấy ở nút này: xem đĩa có sắp hỏng (`smartctl -a`) hoặc quá tải không".to_owned(),
            ),
            Self::NoHoles(path) => (
                format!("hệ thống tệp của {} không trả lại được một phần tệp", path.display()),
                "dùng ext4, xfs hoặc btrfs; nếu không, văn bản đã giao vẫn chiếm chỗ đến khi cả gói xong".to_owned(),
            ),
            Self::SocketBuffers(sysctl, bytes, wanted) => (
                format!("{sysctl} là {bytes}: tốc độ cao sẽ mất gói"),
                format!("`sysctl -w {sysctl}={wanted}`, ghi dòng đó vào /etc/sysctl.d/60-tram.conf, rồi khởi động lại tramd"),
            ),
            Self::Unresolved(key, name, why) => (
                format!("{key}: không tìm thấy tên {name} ({why})"),
                "sửa lại, hoặc hỏi người quản lý DNS; dùng địa chỉ IP thì không cần DNS".to_owned(),
            ),
            Self::NoAnswer(node, address) => (
                format!("{node} không trả lời ở UDP {address}"),
                "tường lửa trên đường, sai cổng, bộ định tuyến bên đó thiếu DNAT, hoặc tramd bên đó không chạy; `tcpdump -n udp port N` ở bên đó cho biết"
                    .to_owned(),
            ),
            Self::SmallPackets(node, address, bytes) => (
                format!("chỉ gói tin đến {bytes} byte tới được {node} ở {address}"),
                "đường nối vẫn chạy; một VPN hoặc bộ định tuyến có MTU nhỏ làm nó chậm hơn".to_owned(),
            ),
            Self::NoLink(node, why) => (
                format!("{node} có trả lời nhưng không nối được: {why}"),
                "xem nhật ký ở cả hai nút; `tram pki status` ở cả hai".to_owned(),
            ),
        }
    }
}

/// What to do about a neighbour that is held.
#[must_use]
pub fn cure_of_held(peer: &str) -> String {
    format!(
        "its spool was rolled back or its disk cloned: empty its spool directory, or, if it is the only machine of its name, run `tram node accept {peer}` here"
    )
}
