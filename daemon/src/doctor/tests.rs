//! One test a finding: something causes it, and code, text and cure are told in both languages.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use tempfile::TempDir;

use super::disk::{Limits, Measured};
use super::*;
use crate::setup::{self, Addresses};

const DAY: i64 = DAY_MS as i64;

/// A first node that does not run.
struct Office {
    dir: TempDir,
    paths: Paths,
}

impl Office {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let paths = Paths::new(Some(dir.path()));
        let (zone, name) = ("tram.internal".parse().expect("a zone"), "central".parse().expect("a name"));
        setup::init(&paths, &zone, (&name, tram_proto::name::Role::Central), &Addresses::default(), Clock::default())
            .expect("made");
        Self { dir, paths }
    }

    /// What is found of files, keys and disk.
    fn look(&self, clock: Clock) -> Vec<Finding> {
        let mut chart = Chart::default();
        files::look(&self.paths, false, clock, &mut chart);
        look_at_keys(&self.paths.pki, clock, &mut chart);
        chart.findings
    }

    fn config(&self, text: &str) -> Vec<Finding> {
        fs::write(&self.paths.config, text).expect("written");
        let mut chart = Chart::default();
        judge_config(&Config::load(&self.paths).expect_err("refused"), &mut chart);
        chart.findings
    }

    fn write(&self, path: &Path, mode: u32) {
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(path, "").expect("written");
        mode_of(path, mode);
    }
}

fn mode_of(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("changed");
}

/// There is this one finding, said like this in English and in Vietnamese, with this in both cures.
#[track_caller]
fn check(findings: &[Finding], code: &str, english: &str, vietnamese: &str, cure: &str) {
    let [finding] = findings else { panic!("{findings:?}") };
    assert_eq!(finding.code().1, code);
    for (language, what) in [(Language::English, english), (Language::Vietnamese, vietnamese)] {
        let said = finding.words(language);
        assert!(said.0.contains(what) && said.1.contains(cure), "{said:?}");
        let view = finding.view(language);
        assert_eq!((view.area.as_str(), view.code.as_str()), (finding.code().0.word(), code));
        assert!(!said.0.contains('\n') && !said.1.is_empty());
    }
}

fn facts(change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
    let mut facts = Facts { has_authority: true, name: "can-tho".to_owned(), ..Facts::default() };
    change(&mut facts);
    let mut chart = Chart::default();
    judge_facts(&facts, &mut chart);
    chart.findings
}

#[tokio::test]
async fn of_a_node_in_order_only_that_it_does_not_run_is_said() {
    let office = Office::new();
    let answer = examine(&office.paths, Clock::default(), None, Language::English).await;
    // What the kernel of this machine gives is not the node's affair.
    let of_node: Vec<_> = answer.findings.iter().filter(|one| one.code != "socket_buffers").collect();
    assert_eq!(of_node.len(), 1, "{of_node:?}");
    assert_eq!((of_node[0].code.as_str(), answer.running), ("not_running", false));
    assert!(of_node[0].cure.contains(&format!("tramd --dir {} run", office.dir.path().display())));
    let areas: Vec<&str> = answer.looked_at.iter().map(|look| look.area.as_str()).collect();
    assert_eq!(areas, Area::ALL.map(Area::word));
    let disk = answer.looked_at.iter().find(|look| look.area == "disk").expect("looked at");
    assert!(disk.measured.contains("fsync"), "{disk:?}");
    assert!(!office.paths.spool.join(".doctor").exists() && !office.dir.path().join(".doctor").exists());
}

#[test]
fn a_config_that_is_missing_or_wrong() {
    let office = Office::new();
    check(
        &office.config("[spool]\nmaxx = 1\n"),
        "config_fault",
        "line 2: spool.maxx",
        "cấu hình sai",
        "tram config check",
    );
    assert_eq!(office.config("[spool]\nmaxx = 1\n[log]\nlevel = 5\n").len(), 2);
    fs::remove_file(&office.paths.config).expect("removed");
    fs::create_dir(&office.paths.config).expect("made");
    let mut chart = Chart::default();
    judge_config(&Config::load(&office.paths).expect_err("a directory"), &mut chart);
    check(&chart.findings, "config_unreadable", "tramd.toml: Is a directory", "tramd.toml", "");
    fs::remove_dir(&office.paths.config).expect("removed");
    let mut chart = Chart::default();
    judge_config(&Config::load(&office.paths).expect_err("gone"), &mut chart);
    check(&chart.findings, "missing", "tramd.toml is missing", "thiếu", "tramd init");
}

#[test]
fn a_file_of_conf_d_that_nobody_reads() {
    let office = Office::new();
    office.write(&office.paths.conf_d.join("10-line.toml.bak"), 0o644);
    office.write(&office.paths.conf_d.join("20-more.toml"), 0o644);
    let found = office.look(Clock::default());
    check(&found, "config_ignored", "10-line.toml.bak is not read", "không được đọc", ".toml");
}

#[test]
fn what_others_may_read_or_change() {
    let of = |path: fn(&Paths) -> PathBuf, mode: u32| {
        let office = Office::new();
        mode_of(&path(&office.paths), mode);
        let mut chart = Chart::default();
        files::look(&office.paths, false, Clock::default(), &mut chart);
        chart.findings
    };
    check(
        &of(|p| p.pki.clone(), 0o755),
        "mode",
        "pki is open to other users (mode 0755)",
        "quyền 0755",
        "`chmod 0700 ",
    );
    check(&of(|p| p.pki.join("node.key"), 0o640), "mode", "node.key", "node.key", "`chmod 0600 ");
    check(&of(|p| p.pki.join("quic-reset.key"), 0o604), "mode", "quic-reset.key", "0604", "`chmod 0600 ");
    check(&of(|p| p.config.clone(), 0o666), "mode", "tramd.toml", "0666", "`chmod 0644 ");
    let office = Office::new();
    fs::create_dir_all(&office.paths.spool).expect("made");
    mode_of(&office.paths.spool, 0o750);
    check(&office.look(Clock::default()), "mode", "spool is open", "quyền 0750", "`chmod 0700 ");
}

#[test]
fn a_file_of_another_user() {
    let mut chart = Chart::default();
    files::check_owner(Path::new("/var/lib/tram/pki/node.key"), 0, 990, &mut chart);
    files::check_owner(Path::new("/var/lib/tram/pki/node.pem"), 990, 990, &mut chart);
    check(
        &chart.findings,
        "owner",
        "node.key belongs to user 0",
        "người dùng 0",
        "`chown 990 /var/lib/tram/pki/node.key`",
    );
}

#[test]
fn what_was_left_behind() {
    let office = Office::new();
    let old = UNIX_EPOCH + Duration::from_millis(Clock::default().wall_ms() - 7_200_000);
    let half = office.paths.pki.join("node.pem.tmp");
    office.write(&half, 0o600);
    assert_eq!(office.look(Clock::default()), [], "a write may be under way");
    File::options().write(true).open(&half).expect("open").set_modified(old).expect("aged");
    check(&office.look(Clock::default()), "leftover", "node.pem.tmp was left behind", "còn sót lại", "");
    fs::remove_file(&half).expect("removed");
    office.write(&office.paths.run.join("admin.sock"), 0o600);
    check(&office.look(Clock::default()), "leftover", "admin.sock", "admin.sock", "");
}

#[test]
fn keys_that_are_missing_or_do_not_fit() {
    let (office, other) = (Office::new(), Office::new());
    let key = Path::new("node.key");
    fs::copy(other.paths.pki.join(key), office.paths.pki.join(key)).expect("copied");
    check(
        &office.look(Clock::default()),
        "keys",
        "is not the key of the certificate",
        "khóa và chứng thư",
        "same backup",
    );
    fs::copy(other.paths.pki.join("root.pem"), office.paths.pki.join("root.pem")).expect("copied");
    let found = office.look(Clock::default());
    assert!(found.iter().any(|one| one.code().1 == "keys"), "another root: {found:?}");
    fs::remove_dir_all(&office.paths.pki).expect("removed");
    let mut chart = Chart::default();
    files::look(&office.paths, false, Clock::default(), &mut chart);
    check(&chart.findings, "missing", "pki is missing", "thiếu", "tramd join");
}

#[test]
fn a_certificate_that_ends_while_the_node_is_stopped() {
    let office = Office::new();
    let certificate = |days: i64| {
        let found = office.look(Clock::new(days * DAY));
        found.into_iter().filter(|one| one.code().1.starts_with("certificate")).collect::<Vec<_>>()
    };
    assert_eq!(certificate(70), []);
    check(&certificate(80), "certificate_ends", "9 days are left", "còn 9 ngày", "");
    check(&certificate(93), "certificate_ended", "ended 3 days ago", "đã hết hạn 3 ngày", "30");
}

#[test]
fn a_clock_that_is_behind() {
    let office = Office::new();
    let found = office.look(Clock::new(-2 * DAY));
    let behind: Vec<_> = found.iter().filter(|one| one.code().1 == "clock_behind").collect();
    assert!(!behind.is_empty() && behind.len() == found.len(), "{found:?}");
    check(&[behind[0].clone()], "clock_behind", "the clock is behind", "đồng hồ chậm", "timedatectl set-ntp true");
}

#[test]
fn a_clock_that_differs_from_the_uplinks() {
    let link = |offset| LinkView {
        peer: "central".to_owned(),
        side: "up".to_owned(),
        state: "up".to_owned(),
        clock_offset_ms: Some(offset),
        ..LinkView::default()
    };
    assert_eq!(facts(|facts| facts.links = vec![link(20_000)]), []);
    let ahead = facts(|facts| facts.links = vec![link(-45_000)]);
    check(&ahead, "clock_offset", "45 s ahead of that of central", "nhanh hơn central 45 giây", "timedatectl");
    let behind = facts(|facts| facts.links = vec![link(61_000)]);
    check(&behind, "clock_offset", "61 s behind that of central", "chậm hơn central 61 giây", "timedatectl");
}

#[test]
fn what_a_running_daemon_says_of_itself() {
    let of = |finding: Finding| facts(|facts| facts.findings = vec![finding]);
    check(&of(Finding::ClockUntrusted), "clock_untrusted", "not trusted", "không đáng tin", "timedatectl set-ntp true");
    check(&of(Finding::Held("a".to_owned())), "held", "a is held", "bị giữ lại", "tram node accept a");
    check(
        &of(Finding::Paused("uplink".to_owned())),
        "paused",
        "uplink is paused",
        "tạm dừng",
        "tram queue resume uplink",
    );
    check(&of(Finding::Late(3, "x".to_owned())), "late", "3 of the messages", "3 văn bản", "tram trace");
    check(&of(Finding::SpoolLow(9)), "spool_low", "nearly full", "gần đầy", "tram recv");
    check(&of(Finding::NoUplink("why".to_owned())), "no_uplink", "(why)", "(why)", "");
    let problem = "9 days are left to this node's certificate: it failed; `tram pki renew` tries at once";
    check(
        &of(Finding::Certificates(problem.to_owned())),
        "certificates",
        "9 days are left",
        "chứng thư: 9",
        "tram pki renew",
    );
    let outside = facts(|facts| facts.has_authority = false);
    check(&outside, "no_authority", "certify can-tho", "chứng thực can-tho", "docs/admin/certificates.md");
    let waits = |reloads| {
        let key = api::ConfigKey { key: "log.level".to_owned(), waits: true, reloads, ..api::ConfigKey::default() };
        facts(|facts| facts.config.keys = vec![key])
    };
    check(&waits(true), "config_waits", "log.level was changed", "chưa có hiệu lực", "tram reload");
    check(&waits(false), "config_waits", "needs a restart", "cần khởi động lại", "systemctl restart tramd");
    check(&[Finding::ListsStale(2)], "lists_stale", "2 revocation lists", "2 danh sách thu hồi", "");
}

#[test]
fn a_disk_that_is_full_small_slow_or_keeps_holes() {
    const GIB: u64 = 1 << 30;
    let well = Measured { free_bytes: 9 * GIB, total_bytes: 10 * GIB, fsync_ms: 12, holes: true };
    let limits = Limits { max_bytes: Some(5 * GIB), keep_free_bytes: GIB };
    let judge = |limits, measured| {
        let mut chart = Chart::default();
        disk::judge(Path::new("/spool"), limits, measured, &mut chart);
        chart.findings
    };
    assert_eq!(judge(limits, well), []);
    check(&judge(limits, Measured { free_bytes: GIB, ..well }), "disk_low", "1.0 GiB free", "còn trống 1.0 GiB", "");
    let small = Limits { max_bytes: Some(20 * GIB), ..limits };
    check(&judge(small, well), "disk_small", "max is 20.0 GiB", "chỉ có 10.0 GiB", "");
    check(&judge(limits, Measured { fsync_ms: 400, ..well }), "disk_slow", "takes 400 ms", "cần 400 ms", "smartctl");
    check(&judge(limits, Measured { holes: false, ..well }), "no_holes", "gives no part", "không trả lại", "ext4");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut chart = Chart::default();
    disk::look(file.path(), limits, Clock::default(), &mut chart);
    check(&chart.findings, "disk_refuses", "cannot be written", "không ghi được", "");
}

#[test]
fn a_kernel_that_gives_sockets_little() {
    let sysctl = tempfile::tempdir().expect("a directory");
    fs::write(sysctl.path().join("rmem_max"), "212992\n").expect("written");
    fs::write(sysctl.path().join("wmem_max"), "8388608\n").expect("written");
    let mut chart = Chart::default();
    network::look_at_buffers(sysctl.path(), &mut chart);
    let line = "`sysctl -w net.core.rmem_max=8388608`";
    check(&chart.findings, "socket_buffers", "net.core.rmem_max is 212992", "mất gói", line);
}

async fn uplink(address: &str, links: &[LinkView]) -> Vec<Finding> {
    let text = format!("[[uplink]]\nnode = \"can-tho\"\naddresses = [\"{address}\"]\n");
    let config = Config::from_text(Path::new("t"), &text).expect("valid");
    let mut chart = Chart::default();
    network::look(&config, links, &mut chart).await;
    chart.findings
}

/// Answers questions of at most so many bytes as a QUIC endpoint does; ends with the process.
fn endpoint(most: usize) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("its address").to_string();
    std::thread::spawn(move || {
        let mut packet = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            // The question: flags, version, 8 bytes of destination, 8 of source, each with its length.
            let answer = [&[0x80, 0, 0, 0, 0, 8][..], &packet[15..23], &[8], &packet[6..14], &[0, 0, 0, 1]].concat();
            if length <= most {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    address
}

fn link(state: &str, error: &str) -> LinkView {
    let (peer, side) = ("can-tho".to_owned(), "up".to_owned());
    LinkView { peer, side, state: state.to_owned(), error: error.to_owned(), ..LinkView::default() }
}

#[tokio::test]
async fn an_uplink_that_does_not_answer() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("its address").to_string();
    let found = uplink(&address, &[]).await;
    check(&found, "no_answer", &format!("does not answer at UDP {address}"), "không trả lời", "DNAT");
    assert_eq!(uplink(&address, &[link("up", "")]).await, [], "the link itself proves the way");
}

#[tokio::test]
async fn an_uplink_that_answers_and_gives_no_link() {
    let address = endpoint(2000);
    assert_eq!(uplink(&address, &[]).await, []);
    assert_eq!(uplink(&address, &[link("up", "")]).await, []);
    let refused = uplink(&address, &[link("down", "revoked")]).await;
    check(
        &refused,
        "no_link",
        "can-tho answers, and there is no link to it: revoked",
        "không nối được: revoked",
        "pki status",
    );
}

#[tokio::test]
async fn a_way_that_only_small_packets_pass() {
    let found = uplink(&endpoint(1300), &[]).await;
    check(&found, "small_packets", "up to 1280 bytes reach can-tho", "1280 byte", "MTU");
}

#[tokio::test]
async fn a_name_that_is_not_found() {
    let found = uplink("no-such-host.invalid:7443", &[]).await;
    check(&found, "unresolved", "no-such-host.invalid is not found", "không tìm thấy tên no-such-host.invalid", "DNS");
}
