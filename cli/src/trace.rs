//! `tram trace`.

use serde_json::json;
use tram_client::{Client, Place};

use crate::args::TraceArgs;
use crate::exit::Failure;
use crate::send::millis;
use crate::show;

pub(crate) async fn run(place: &Place, args: TraceArgs, json: bool) -> Result<(), Failure> {
    let client = Client::connect(place).await?;
    let trace = client.trace(args.id, args.timeout.map_or(0, millis)).await?;
    if json {
        let hops = trace.hops.iter().map(
            |hop| json!({ "node": hop.node, "state": hop.state, "at": show::utc(hop.at_ms), "detail": hop.detail }),
        );
        let recipients = trace.recipients.iter().map(|recipient| {
            json!({
                "address": recipient.address,
                "state": recipient.state,
                "at": show::utc(recipient.at_ms),
                "reason": recipient.reason,
                "detail": recipient.detail,
                "code": show::code(recipient),
            })
        });
        return show::json(&json!({
            "id": args.id.to_string(),
            "state": trace.state,
            "hops": hops.collect::<Vec<_>>(),
            "recipients": recipients.collect::<Vec<_>>(),
            "complete": trace.complete,
            "demoted_from": Some(&trace.demoted_from).filter(|asked| !asked.is_empty()),
        }));
    }
    if !trace.demoted_from.is_empty() {
        show::line(&format!("demoted from {} when it was sent: the quota was used up", trace.demoted_from))?;
    }
    let hops: Vec<_> =
        trace.hops.into_iter().map(|hop| [hop.node, hop.state, show::local(hop.at_ms), hop.detail]).collect();
    show::line(&show::table(["NODE", "STATE", "AT", ""], &hops))?;
    let recipients: Vec<_> = trace
        .recipients
        .into_iter()
        .map(|r| [r.address.clone(), r.state.clone(), show::local(r.at_ms), show::why(&r)])
        .collect();
    show::line("")?;
    show::line(&show::table(["RECIPIENT", "STATE", "AT", "REASON"], &recipients))?;
    if !trace.complete {
        show::line("\nNot every node along the route answered in time; what they know may be newer.")?;
    }
    Ok(())
}
