//! The signed objects of the bundle that are neither certificates nor revocation lists: root lists, notices, handovers.

use super::*;

/// A root that was exchanged for another: what was signed in its time is still believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastRoot {
    /// DER.
    pub certificate: Bytes,
    /// It vouches for what was certified until then, Unix milliseconds.
    pub until_ms: u64,
}

/// Which roots an overlay trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Counts the lists, from 1.
    pub version: u64,
    /// The overlay's zone.
    pub zone: Zone,
    /// Certificates, DER, newest first; 1 to [`limits::ROOTS`].
    pub roots: Vec<Bytes>,
    /// When it was made, Unix milliseconds.
    pub at_ms: u64,
    /// Trusted for statements, never for links, newest first; at most [`limits::PAST_ROOTS`]. A stolen root is not here.
    pub past: Vec<PastRoot>,
}

impl Roots {
    /// The bytes that are signed.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let past = |past: &PastRoot| wire::PastRoot { certificate: past.certificate.clone(), until_ms: past.until_ms };
        crate::wire::encode(&wire::Roots {
            version: self.version,
            zone: self.zone.to_string(),
            roots: self.roots.clone(),
            at_ms: self.at_ms,
            past: self.past.iter().map(past).collect(),
        })
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed or over a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        let w: wire::Roots = crate::wire::decode("root list", bytes)?;
        WireError::limit("root list", w.roots.len(), limits::ROOTS)?;
        certificates("root list", &w.roots)?;
        if w.roots.is_empty() {
            return Err(WireError::Malformed { what: "root list", why: "it is empty" });
        }
        WireError::limit("past roots", w.past.len(), limits::PAST_ROOTS)?;
        let mut past = Vec::new();
        for one in w.past {
            WireError::limit("certificate", one.certificate.len(), limits::CERTIFICATE_BYTES)?;
            past.push(PastRoot { certificate: one.certificate, until_ms: one.until_ms });
        }
        Ok(Self { version: w.version, zone: w.zone.parse()?, roots: w.roots, at_ms: w.at_ms, past })
    }
}

/// A root list and the signatures of roots under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRoots {
    /// Encoded [`Roots`].
    pub body: Bytes,
    /// SHA-256 of a root certificate, and its key's signature: ECDSA P-384 with SHA-384, ASN.1. At most
    /// [`limits::ROOTS`] times two.
    pub signatures: Vec<([u8; 32], Bytes)>,
}

impl SignedRoots {
    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let signature = |(root, signature): &([u8; 32], Bytes)| wire::RootSignature {
            root: copy(root),
            signature: signature.clone(),
        };
        let signatures = self.signatures.iter().map(signature).collect();
        crate::wire::encode(&wire::SignedRoots { body: self.body.clone(), signatures })
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed or over a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        WireError::limit("root list", bytes.len(), limits::CONTROL_FRAME_BYTES)?;
        let w: wire::SignedRoots = crate::wire::decode("root list", bytes)?;
        WireError::limit("signatures", w.signatures.len(), 2 * limits::ROOTS)?;
        let mut signatures = Vec::new();
        for one in w.signatures {
            WireError::limit("signature", one.signature.len(), limits::SIGNATURE_BYTES)?;
            signatures.push((fixed("root", &one.root)?, one.signature));
        }
        Ok(Self { body: w.body, signatures })
    }
}

/// The root of a province that began alone gives way to another overlay's, which vouches for the province's CAs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// The zone of both overlays.
    pub zone: Zone,
    /// The province.
    pub name: NodeName,
    /// Its id.
    pub node: NodeId,
    /// The root it began with, DER.
    pub old: Bytes,
    /// The root that takes its place, DER.
    pub new: Bytes,
    /// The province's CAs, certified by the new root, DER; 1 to [`limits::HANDED_OVER`].
    pub authorities: Vec<Bytes>,
    /// When it was made, Unix milliseconds; its version as an object.
    pub at_ms: u64,
}

impl Handover {
    /// The bytes that are signed.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        crate::wire::encode(&wire::Handover {
            zone: self.zone.to_string(),
            name: self.name.to_string(),
            node: copy(&self.node.0),
            old: self.old.clone(),
            new: self.new.clone(),
            authorities: self.authorities.clone(),
            at_ms: self.at_ms,
        })
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed or over a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        let w: wire::Handover = crate::wire::decode("handover", bytes)?;
        WireError::limit("CAs of a handover", w.authorities.len(), limits::HANDED_OVER)?;
        if w.authorities.is_empty() {
            return Err(WireError::Malformed { what: "handover", why: "it names no CA" });
        }
        for one in [&w.old, &w.new].into_iter().chain(&w.authorities) {
            WireError::limit("certificate", one.len(), limits::CERTIFICATE_BYTES)?;
        }
        Ok(Self {
            zone: w.zone.parse()?,
            name: w.name.parse()?,
            node: NodeId::from_slice(&w.node)?,
            old: w.old,
            new: w.new,
            authorities: w.authorities,
            at_ms: w.at_ms,
        })
    }
}

/// A handover and the signatures of both roots under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHandover {
    /// Encoded [`Handover`].
    pub body: Bytes,
    /// ECDSA P-384 with SHA-384, ASN.1. Empty on the way from the new root to the old one.
    pub by_old: Bytes,
    /// The same by the new root.
    pub by_new: Bytes,
}

impl SignedHandover {
    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (body, by_old, by_new) = (self.body.clone(), self.by_old.clone(), self.by_new.clone());
        crate::wire::encode(&wire::SignedHandover { body, by_old, by_new })
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed or over a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        let w: wire::SignedHandover = crate::wire::decode("handover", bytes)?;
        WireError::limit("signature", w.by_old.len(), limits::SIGNATURE_BYTES)?;
        WireError::limit("signature", w.by_new.len(), limits::SIGNATURE_BYTES)?;
        Ok(Self { body: w.body, by_old: w.by_old, by_new: w.by_new })
    }
}

/// A node's former name, still understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// As it was called.
    pub old: NodeName,
    /// As it is called.
    pub new: NodeName,
    /// The node.
    pub node: NodeId,
    /// Until when the old name is understood, Unix milliseconds.
    pub until_ms: u64,
}

impl Alias {
    /// Whether a node bears, or bore, both names by what CAs say. Two notices count together when they give it the same
    /// present name: then whoever signed either of them may speak of that name.
    pub fn are_one<'a>(
        aliases: impl Iterator<Item = &'a Self> + Clone,
        node: NodeId,
        one: &NodeName,
        other: &NodeName,
    ) -> bool {
        let of = |name: &'a Self, called: &NodeName| name.node == node && (name.old == *called || name.new == *called);
        let mut first = aliases.clone().filter(|alias| of(alias, one));
        first.any(|alias| aliases.clone().any(|next| next.new == alias.new && of(next, other)))
    }
}

/// A node id that another CA may certify from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The node.
    pub node: NodeId,
    /// The province whose CA it is; `None`: central's.
    pub to: Option<NodeName>,
    /// From when on, Unix milliseconds.
    pub at_ms: u64,
}

/// A node that passes on what comes to its join port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Which node.
    pub node: NodeId,
    /// Until when, Unix milliseconds.
    pub until_ms: u64,
    /// The join port behind it; at most [`limits::HELLO_ADDRESSES`].
    pub to: Vec<HostPort>,
}

/// What a CA announces to all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notice {
    /// Counts its notices, from 1.
    pub version: u64,
    /// SHA-256 of its public key.
    pub authority: [u8; 32],
    /// When it was made, Unix milliseconds.
    pub at_ms: u64,
    /// At most [`limits::ALIASES`].
    pub aliases: Vec<Alias>,
    /// At most [`limits::ALIASES`].
    pub transfers: Vec<Transfer>,
    /// At most [`limits::DOORS`].
    pub doors: Vec<Door>,
}

impl Notice {
    /// The bytes that are signed.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let alias = |a: &Alias| wire::Alias {
            old: a.old.to_string(),
            new: a.new.to_string(),
            node: copy(&a.node.0),
            until_ms: a.until_ms,
        };
        let transfer = |t: &Transfer| wire::Transfer {
            node: copy(&t.node.0),
            to: t.to.as_ref().map(ToString::to_string).unwrap_or_default(),
            at_ms: t.at_ms,
        };
        let door = |d: &Door| wire::Door {
            node: copy(&d.node.0),
            until_ms: d.until_ms,
            to: d.to.iter().map(ToString::to_string).collect(),
        };
        crate::wire::encode(&wire::Notice {
            version: self.version,
            authority: copy(&self.authority),
            at_ms: self.at_ms,
            aliases: self.aliases.iter().map(alias).collect(),
            transfers: self.transfers.iter().map(transfer).collect(),
            doors: self.doors.iter().map(door).collect(),
        })
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed or over a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        let w: wire::Notice = crate::wire::decode("notice", bytes)?;
        WireError::limit("aliases", w.aliases.len(), limits::ALIASES)?;
        WireError::limit("transfers", w.transfers.len(), limits::ALIASES)?;
        WireError::limit("doors", w.doors.len(), limits::DOORS)?;
        let alias = |a: &wire::Alias| -> Result<Alias, WireError> {
            let (old, new, node) = (a.old.parse()?, a.new.parse()?, NodeId::from_slice(&a.node)?);
            Ok(Alias { old, new, node, until_ms: a.until_ms })
        };
        let transfer = |t: &wire::Transfer| -> Result<Transfer, WireError> {
            let to = if t.to.is_empty() { None } else { Some(t.to.parse()?) };
            Ok(Transfer { node: NodeId::from_slice(&t.node)?, to, at_ms: t.at_ms })
        };
        let door = |d: &wire::Door| -> Result<Door, WireError> {
            Ok(Door { node: NodeId::from_slice(&d.node)?, until_ms: d.until_ms, to: hosts("join address", &d.to)? })
        };
        Ok(Self {
            version: w.version,
            authority: fixed("authority", &w.authority)?,
            at_ms: w.at_ms,
            aliases: w.aliases.iter().map(alias).collect::<Result<_, _>>()?,
            transfers: w.transfers.iter().map(transfer).collect::<Result<_, _>>()?,
            doors: w.doors.iter().map(door).collect::<Result<_, _>>()?,
        })
    }
}

/// A notice and its CA's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedNotice {
    /// Encoded [`Notice`].
    pub body: Bytes,
    /// ECDSA P-256 with SHA-256, ASN.1.
    pub signature: Bytes,
}

impl SignedNotice {
    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        crate::wire::encode(&wire::SignedNotice { body: self.body.clone(), signature: self.signature.clone() })
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed or over a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        WireError::limit("notice", bytes.len(), limits::OBJECT_BYTES)?;
        let w: wire::SignedNotice = crate::wire::decode("notice", bytes)?;
        WireError::limit("signature", w.signature.len(), limits::SIGNATURE_BYTES)?;
        Ok(Self { body: w.body, signature: w.signature })
    }
}
