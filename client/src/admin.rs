//! An administrator's door.

mod pki;

use bytes::Bytes;
use tonic::transport::Channel;
use tram_proto::id::MessageId;
use tram_proto::local as api;
use tram_proto::local::admin_client::AdminClient;
use tram_proto::name::{Inbox, NodeName};

use crate::error::Error;
use crate::place::Place;
use crate::{
    ConfigAnswer, DoctorAnswer, InboxView, KeyView, LinkView, NodeView, PkiSignRequest, PlanAnswer, QueuesAnswer,
    ScrubAnswer, StatusAnswer, TokenNewAnswer, TokenNewRequest, TokenView,
};

/// An administrator's connection to a node. Cheap to clone; clones share the connection.
#[derive(Debug, Clone)]
pub struct Admin {
    admin: AdminClient<Channel>,
}

impl Admin {
    /// Connects to the node of `place`. While a node that has been set up is just starting, tries for 5 s.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub async fn connect(place: &Place) -> Result<Self, Error> {
        let channel = place.open("admin.sock").await?;
        Ok(Self { admin: AdminClient::new(channel).max_decoding_message_size(crate::ANSWER_BYTES) })
    }

    /// The node on one screen.
    ///
    /// # Errors
    /// [`Error`], as for every call here.
    pub async fn status(&self) -> Result<StatusAnswer, Error> {
        Ok(self.admin.clone().status(api::StatusRequest {}).await?.into_inner())
    }

    /// Its links.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn links(&self) -> Result<Vec<LinkView>, Error> {
        Ok(self.admin.clone().links(api::LinksRequest {}).await?.into_inner().links)
    }

    /// The nodes of its tree.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn nodes(&self) -> Result<Vec<NodeView>, Error> {
        Ok(self.admin.clone().nodes(api::NodesRequest {}).await?.into_inner().nodes)
    }

    /// What waits, by next hop and class, and which next hops are paused.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn queues(&self) -> Result<QueuesAnswer, Error> {
        Ok(self.admin.clone().queues(api::QueuesRequest {}).await?.into_inner())
    }

    /// Offers nothing to a next hop (`uplink` or a child's name) until it is resumed. False: it was paused before.
    ///
    /// # Errors
    /// [`Error`]; code `no_such_hop`.
    pub async fn pause(&self, hop: &str) -> Result<bool, Error> {
        let hop = api::HopName { hop: hop.to_owned() };
        Ok(self.admin.clone().queue_pause(hop).await?.into_inner().changed > 0)
    }

    /// Undoes that. False: it was not paused.
    ///
    /// # Errors
    /// [`Error`]; code `no_such_hop`.
    pub async fn resume(&self, hop: &str) -> Result<bool, Error> {
        let hop = api::HopName { hop: hop.to_owned() };
        Ok(self.admin.clone().queue_resume(hop).await?.into_inner().changed > 0)
    }

    /// Offers at once what waits for a later time or a newer route, and again what the next hop has not taken, one
    /// message or all; returns how many go.
    ///
    /// # Errors
    /// [`Error`]; code `no_such_message`.
    pub async fn retry(&self, id: Option<MessageId>) -> Result<u64, Error> {
        let id = id.map(|id| bytes::Bytes::copy_from_slice(&id.0)).unwrap_or_default();
        Ok(self.admin.clone().queue_retry(api::RetryRequest { id }).await?.into_inner().changed)
    }

    /// Declares the present spool of a node lost; returns how many messages sent from here are offered again.
    ///
    /// # Errors
    /// [`Error`]; code `no_such_node`.
    pub async fn retire(&self, node: &NodeName) -> Result<u64, Error> {
        let name = api::NodeName { name: node.to_string() };
        Ok(self.admin.clone().node_retire(name).await?.into_inner().changed)
    }

    /// Lets in a neighbour that was held as rolled back or cloned.
    ///
    /// # Errors
    /// [`Error`]; code `not_held`.
    pub async fn accept(&self, node: &NodeName) -> Result<(), Error> {
        self.admin.clone().node_accept(api::NodeName { name: node.to_string() }).await?;
        Ok(())
    }

    /// Has the node read its config again; returns the keys that changed.
    ///
    /// # Errors
    /// [`Error`]; code `config`: the new one cannot be used, and the old one is still in force.
    pub async fn reload(&self) -> Result<Vec<KeyView>, Error> {
        Ok(self.admin.clone().reload(api::ReloadRequest {}).await?.into_inner().keys)
    }

    /// Every key of the config, in force and in the files; or those of a file, by its name and text.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn config(&self, file: Option<(String, String)>) -> Result<ConfigAnswer, Error> {
        let (file, text) = file.unwrap_or_default();
        Ok(self.admin.clone().config(api::ConfigRequest { file, text }).await?.into_inner())
    }

    /// Has the node examine itself. `language` is `vi` or `en`. Takes some seconds: it measures the disk and asks its
    /// uplinks.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn doctor(&self, language: &str) -> Result<DoctorAnswer, Error> {
        let language = language.to_owned();
        Ok(self.admin.clone().doctor(api::DoctorRequest { language }).await?.into_inner())
    }

    /// The bandwidth plan in force, what holds now and through the week.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn plan(&self) -> Result<PlanAnswer, Error> {
        Ok(self.admin.clone().plan_show(api::PlanShowRequest {}).await?.into_inner())
    }

    /// The plan of a config that is not in force: a file's name and text, or the node's own as it stands on its disk.
    ///
    /// # Errors
    /// [`Error`]; code `config`: it cannot be used.
    pub async fn check_plan(&self, file: Option<(String, String)>) -> Result<PlanAnswer, Error> {
        let (file, text) = file.unwrap_or_default();
        Ok(self.admin.clone().plan_check(api::PlanCheckRequest { file, text }).await?.into_inner())
    }

    /// Has the node read and check every payload of its spool. Takes as long as the disk takes.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn scrub(&self) -> Result<ScrubAnswer, Error> {
        Ok(self.admin.clone().scrub(api::ScrubRequest {}).await?.into_inner())
    }

    /// The inboxes declared here.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn inboxes(&self) -> Result<Vec<InboxView>, Error> {
        Ok(self.admin.clone().inbox_list(api::InboxesRequest {}).await?.into_inner().inboxes)
    }

    /// Declares an inbox; nothing happens when it is there.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn create_inbox(&self, inbox: &Inbox) -> Result<(), Error> {
        self.admin.clone().inbox_create(api::InboxName { name: inbox.to_string() }).await?;
        Ok(())
    }

    /// Takes an inbox's declaration back.
    ///
    /// # Errors
    /// [`Error`]; codes `no_such_inbox`, `inbox_not_empty`.
    pub async fn remove_inbox(&self, inbox: &Inbox) -> Result<(), Error> {
        self.admin.clone().inbox_remove(api::InboxName { name: inbox.to_string() }).await?;
        Ok(())
    }

    /// Makes a token with which a new node joins.
    ///
    /// # Errors
    /// [`Error`]; code `no_authority` when this node issues no certificates.
    pub async fn new_token(&self, token: TokenNewRequest) -> Result<TokenNewAnswer, Error> {
        Ok(self.admin.clone().token_new(token).await?.into_inner())
    }

    /// Has a request file signed whose fingerprint has been compared; answers the answer file.
    ///
    /// # Errors
    /// [`Error`]; code `no_authority` when this node issues no certificates.
    pub async fn sign(&self, request: PkiSignRequest) -> Result<Bytes, Error> {
        Ok(self.admin.clone().pki_sign(request).await?.into_inner().answer)
    }

    /// The tokens this node has made and still remembers.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn tokens(&self) -> Result<Vec<TokenView>, Error> {
        Ok(self.admin.clone().token_list(api::TokenListRequest {}).await?.into_inner().tokens)
    }

    /// Cancels a token by its id or the node's name.
    ///
    /// # Errors
    /// [`Error`]; code `no_such_token`.
    pub async fn cancel_token(&self, token: &str) -> Result<(), Error> {
        self.admin.clone().token_cancel(api::TokenCancelRequest { token: token.to_owned() }).await?;
        Ok(())
    }

    /// Opens the CA's locked key.
    ///
    /// # Errors
    /// [`Error`]; code `wrong_passphrase`, after a second; `ca_locked` when it cannot be opened for another reason.
    pub async fn unlock(&self, passphrase: &str) -> Result<(), Error> {
        let request = api::PkiUnlockRequest { passphrase: passphrase.to_owned() };
        self.admin.clone().pki_unlock(request).await?;
        Ok(())
    }

    /// Has the node forget the CA's opened key: nothing is issued until it is unlocked.
    ///
    /// # Errors
    /// [`Error`]; code `not_locked` when the key file is not encrypted, so that anyone could open it again.
    pub async fn lock(&self) -> Result<(), Error> {
        self.admin.clone().pki_lock(api::PkiLockRequest::default()).await?;
        Ok(())
    }

    /// Has the node encrypt its CA's key files with a passphrase, or take the encryption away; returns which there are.
    ///
    /// # Errors
    /// [`Error`]; code `wrong_passphrase`.
    pub async fn set_lock(&self, passphrase: &str, set: bool) -> Result<Vec<String>, Error> {
        let request = api::PkiLockRequest { passphrase: passphrase.to_owned(), set, remove: !set };
        Ok(self.admin.clone().pki_lock(request).await?.into_inner().keys)
    }
}
