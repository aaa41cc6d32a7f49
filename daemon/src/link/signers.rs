//! Certificates of signers, as one stream brings them ahead of statements.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use tram_pki::hash::cert_hash;
use tram_proto::id::CertHash;
use tram_proto::statement::{Kind, Signed};
use tram_relay::input::Signer;

use crate::link::fault::Fault;
use crate::link::session::Link;

/// Chains kept at hand for one stream; all of them are in the spool too.
const CHAINS: usize = 64;

/// Chains remembered as accepted on one link.
const ACCEPTED: usize = 4096;

/// The chains that came over one stream.
#[derive(Default)]
pub(crate) struct Signers {
    chains: HashMap<CertHash, Arc<Vec<Bytes>>>,
}

impl Signers {
    /// Takes a chain and makes it durable, so that the statements after it can be forwarded with it. One that proves
    /// nothing is passed over: what it was to vouch for will not be believed.
    pub(crate) async fn learn(&mut self, link: &Link, chain: Vec<Bytes>) -> Result<(), Fault> {
        let mut hasher = blake3::Hasher::new();
        chain.iter().for_each(|der| _ = hasher.update(blake3::hash(der).as_bytes()));
        let whole = *hasher.finalize().as_bytes();
        if link.chains.lock().unwrap_or_else(PoisonError::into_inner).contains(&whole) {
            return Ok(());
        }
        if let Err(why) = link.here.trust.chain(&chain) {
            link.warn("a signer's certificates were not accepted", &why);
            return Ok(());
        }
        let Some(hash) = chain.first().map(|leaf| cert_hash(leaf)) else { return Ok(()) };
        let chain = Arc::new(chain);
        let kept = chain.clone();
        link.here.on_disk(move |spool| spool.put_chain(&kept)).await?;
        if self.chains.len() >= CHAINS {
            self.chains.clear();
        }
        self.chains.insert(hash, chain);
        let mut accepted = link.chains.lock().unwrap_or_else(PoisonError::into_inner);
        if accepted.len() >= ACCEPTED {
            accepted.clear();
        }
        accepted.insert(whole);
        Ok(())
    }

    /// Who signed this.
    pub(crate) async fn verify(
        &mut self,
        link: &Link,
        kind: Kind,
        signed: &Signed,
        at_ms: u64,
    ) -> Result<Result<Signer, String>, Fault> {
        let hash = signed.signature.signer;
        let chain = match self.chains.get(&hash) {
            Some(chain) => chain.clone(),
            None => {
                let Some(chain) = link.here.on_disk(move |spool| spool.chain(&hash)).await? else {
                    return Ok(Err("its signer's certificates are not known here".to_owned()));
                };
                let chain = Arc::new(chain);
                if self.chains.len() < CHAINS {
                    self.chains.insert(hash, chain.clone());
                }
                chain
            }
        };
        Ok(link.here.trust.statement(kind, signed, &chain, at_ms))
    }
}
