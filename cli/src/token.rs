//! `tram token`.

use std::io::Write as _;

use serde_json::json;
use tram_client::{Admin, Place, TokenNewRequest};

use crate::args::TokenCommand;
use crate::exit::Failure;
use crate::send::millis;
use crate::show;

pub(crate) async fn run(place: &Place, command: TokenCommand, json: bool) -> Result<(), Failure> {
    let admin = Admin::connect(place).await?;
    match command {
        TokenCommand::New { name, role, ttl, uplink } => {
            let (name, role) = (name.to_string(), role.to_string());
            let order =
                TokenNewRequest { name: name.clone(), role, ttl_ms: millis(ttl), uplink: uplink.unwrap_or_default() };
            let made = admin.new_token(order).await?;
            if json {
                let expires = show::utc(made.expires_ms);
                return show::json(&json!({ "id": made.id, "name": name, "token": made.token, "expires": expires }));
            }
            show::line(&made.token)?;
            let until = show::local(made.expires_ms);
            // The token is out; a closed stderr changes nothing.
            let _ = writeln!(std::io::stderr(), "tram: for {name}, good until {until}, shown only now; it is a secret");
            Ok(())
        }
        TokenCommand::List => {
            let tokens = admin.tokens().await?;
            if json {
                let list = tokens.iter().map(|token| {
                    json!({
                        "id": token.id,
                        "name": token.name,
                        "role": token.role,
                        "state": token.state,
                        "created": show::utc(token.created_ms),
                        "expires": show::utc(token.expires_ms),
                    })
                });
                return show::json(&json!({ "tokens": list.collect::<Vec<_>>() }));
            }
            let rows: Vec<_> =
                tokens.into_iter().map(|t| [t.name, t.role, t.state, show::local(t.expires_ms), t.id]).collect();
            show::line(&show::table(["NODE", "ROLE", "STATE", "EXPIRES", "ID"], &rows))
        }
        TokenCommand::Cancel { token } => {
            admin.cancel_token(&token).await?;
            if json { show::json(&json!({ "token": token, "state": "cancelled" })) } else { Ok(()) }
        }
    }
}
