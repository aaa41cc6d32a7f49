//! `tram pki status`: days first, then dates.

use serde_json::{Value, json};
use tram_client::{Admin, CertificateView, PkiStatusAnswer, Place};

use super::overlay::{ca_text, root_text, rotation_json};
use crate::exit::{Failure, NEGATIVE};
use crate::show;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// Days left until `at_ms`, for people and tables.
pub(crate) fn days_left(at_ms: u64, now_ms: u64) -> String {
    match at_ms.checked_sub(now_ms) {
        Some(left) => show::count(left / DAY_MS, "day", "days"),
        None => format!("ended {} ago", show::count((now_ms - at_ms) / DAY_MS, "day", "days")),
    }
}

/// The same for JSON; negative when it is over.
pub(crate) fn days(at_ms: u64, now_ms: u64) -> i64 {
    let (at, now) = (i64::try_from(at_ms).unwrap_or(i64::MAX), i64::try_from(now_ms).unwrap_or(i64::MAX));
    (at - now).div_euclid(DAY_MS as i64)
}

/// A certificate or list for JSON.
pub(crate) fn certificate_json(one: &CertificateView, now_ms: u64) -> Value {
    let mut value = json!({
        "name": one.name,
        "kind": one.kind,
        "days_left": days(one.not_after_ms, now_ms),
        "not_after": show::utc(one.not_after_ms),
        "key": one.key,
        "own": one.own,
    });
    if one.kind == "crl" {
        value["made"] = show::utc(one.made_ms);
        value["entries"] = one.entries.into();
    }
    value
}

/// Rows for a table: days first.
pub(crate) fn certificate_rows<'a>(
    certificates: impl Iterator<Item = &'a CertificateView>,
    now_ms: u64,
) -> Vec<[String; 4]> {
    let row = |one: &CertificateView| {
        let kind = match one.kind.as_str() {
            "issuer" => "CA",
            "crl" => "revocation list",
            kind => kind,
        };
        [days_left(one.not_after_ms, now_ms), show::local(one.not_after_ms), kind.to_owned(), one.name.clone()]
    };
    certificates.map(row).collect()
}

pub(super) async fn status(place: &Place, json: bool) -> Result<(), Failure> {
    let status = Admin::connect(place).await?.pki().await?;
    if json {
        show::json(&status_json(&status))?;
    } else {
        show::line(&status_text(&status))?;
    }
    // The text has them already; --json leaves them to whoever reads it.
    if status.problems.is_empty() { Ok(()) } else { Err(Failure::new(NEGATIVE, "")) }
}

fn status_json(status: &PkiStatusAnswer) -> Value {
    let now_ms = status.now_ms;
    json!({
        "schema": "tram.pki/v1",
        "now": show::utc(now_ms),
        "problems": status.problems,
        "certificates": status.certificates.iter().map(|one| certificate_json(one, now_ms)).collect::<Vec<_>>(),
        "renewal": {
            "due": show::utc(status.renewal_due_ms),
            "error": (!status.renewal_error.is_empty()).then_some(&status.renewal_error),
        },
        "roots_version": status.roots_version,
        "rotation": rotation_json(&status.rotation.clone().unwrap_or_default()),
        "requests": status.requests.iter().map(|one| {
            json!({ "name": one.name, "key": one.key, "at": show::utc(one.at_ms) })
        }).collect::<Vec<_>>(),
        "backup": status.backup.map(|backup| json!({
            "made": show::utc(backup.made_ms),
            "keys": backup.keys,
            "issued_since": backup.issued_since,
        })),
        "refused_objects": status.refused_objects,
    })
}

fn status_text(status: &PkiStatusAnswer) -> String {
    let now_ms = status.now_ms;
    let mut text = String::new();
    if status.problems.is_empty() {
        text.push_str("all is well\n");
    }
    status.problems.iter().for_each(|problem| text.push_str(&format!("! {}\n", show::plain(problem))));
    let (lists, certificates): (Vec<_>, Vec<_>) = status.certificates.iter().partition(|one| one.kind == "crl");
    let rows = certificate_rows(certificates.into_iter(), now_ms);
    text.push_str(&format!("\n{}\n", show::table(["LEFT", "UNTIL", "KIND", "NAME"], &rows)));
    text.push_str(&format!(
        "this node's own is renewed by itself in {}\n",
        days_left(status.renewal_due_ms.max(now_ms), now_ms)
    ));
    if !status.renewal_error.is_empty() {
        text.push_str(&format!("the last try failed: {}\n", show::plain(&status.renewal_error)));
    }
    let rows: Vec<_> = lists
        .into_iter()
        .map(|one| {
            let age = show::count(now_ms.saturating_sub(one.made_ms) / DAY_MS, "day", "days");
            let fresh = days_left(one.not_after_ms, now_ms);
            [age, fresh, one.entries.to_string(), one.name.clone()]
        })
        .collect();
    text.push_str(&format!("\n{}\n", show::table(["AGE", "FRESH FOR", "REVOKED", "REVOCATION LIST OF"], &rows)));
    text.push('\n');
    if let Some(backup) = status.backup {
        let rotation = status.rotation.clone().unwrap_or_default();
        text.push_str(&format!("{}\n{}\n", root_text(&rotation), ca_text(&rotation)));
        let since = show::count(backup.issued_since, "issue or revocation", "issues and revocations");
        text.push_str(&match backup.made_ms {
            0 => "backup: never; make one with `tram pki backup FILE`\n".to_owned(),
            at_ms => {
                let ago = show::count(now_ms.saturating_sub(at_ms) / DAY_MS, "day", "days");
                format!("backup: {ago} ago; {since} since\n")
            }
        });
    }
    if status.refused_objects > 0 {
        let count = show::count(status.refused_objects, "object of a neighbour was", "objects of neighbours were");
        text.push_str(&format!("{count} refused since the start: see the log\n"));
    }
    text.push_str(&format!("list of roots: version {}", status.roots_version));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_say_when_they_are_over() {
        let now = 100 * DAY_MS;
        assert_eq!(days_left(now + DAY_MS, now), "1 day");
        assert_eq!(days_left(now + DAY_MS - 1, now), "0 days");
        assert_eq!(days_left(now - 3 * DAY_MS, now), "ended 3 days ago");
        assert_eq!((days(now + DAY_MS - 1, now), days(now - 1, now)), (0, -1));
    }
}
