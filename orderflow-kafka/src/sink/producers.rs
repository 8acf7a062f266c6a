//! The producers that a writer sends by, and the topics as they know them.
//!
//! Invariant: a topic's records all go through one producer, in the order in which they are given to it.

use super::feed::batch_size;
use super::topics::TopicId;
use crate::client::refused_property;
use crate::ffi::{ProducerClient, TopicHandle};
use orderflow_core::{Error, Result};
use rdkafka::config::ClientConfig;
use std::sync::Arc;

/// One producer, and where it is not bound by a transaction others with smaller batches.
pub(super) struct Producers {
    common: Arc<ProducerClient>,
    /// What others are made of; `None` where all records go through the one.
    config: Option<ClientConfig>,
    /// Producers with smaller batches, for topics that take no larger ones.
    narrow: Vec<(usize, Arc<ProducerClient>)>,
    /// By number of topic, made at the first record.
    handles: Vec<Option<TopicHandle>>,
}

impl Producers {
    /// `common`, and others of this configuration for topics that take smaller batches only.
    pub(super) fn new(common: Arc<ProducerClient>, config: ClientConfig) -> Self {
        Self { common, config: Some(config), narrow: vec![], handles: vec![] }
    }

    /// `common` alone: a transaction has no more.
    pub(super) fn single(common: Arc<ProducerClient>) -> Self {
        Self { common, config: None, narrow: vec![], handles: vec![] }
    }

    /// The topic of this number and name, which takes batches of `max_batch` bytes, where it says so.
    pub(super) fn handle(&mut self, id: TopicId, name: &str, max_batch: Option<usize>) -> Result<&TopicHandle> {
        let at = usize::from(id);
        if self.handles.len() <= at {
            self.handles.resize_with(at + 1, || None);
        }
        if self.handles[at].is_none() {
            let client = self.client_for(max_batch)?;
            self.handles[at] = TopicHandle::new(&client, name);
        }
        self.handles[at].as_ref().ok_or_else(|| Error::internal(format!("librdkafka took no topic '{name}'")))
    }

    /// A broker judges whole batches, so a topic that takes small ones gets a producer that makes small ones; a record that is
    /// too large then stands alone and is refused alone.
    fn client_for(&mut self, max_batch: Option<usize>) -> Result<Arc<ProducerClient>> {
        let Some(config) = &self.config else { return Ok(self.common.clone()) };
        let Some(max) = max_batch.filter(|max| *max < batch_size(config)) else { return Ok(self.common.clone()) };
        if let Some((_, client)) = self.narrow.iter().find(|(size, _)| *size == max) {
            return Ok(client.clone());
        }
        let mut config = config.clone();
        config.set("batch.size", max.to_string());
        let client = Arc::new(ProducerClient::new(&config).map_err(refused_property)?);
        self.narrow.push((max, client.clone()));
        Ok(client)
    }

    /// Goes on with another common producer.
    pub(super) fn rebind(&mut self, common: Arc<ProducerClient>) {
        self.handles.clear();
        self.common = common;
    }

    /// Every producer in use, the common one first.
    pub(super) fn clients(&self) -> Vec<Arc<ProducerClient>> {
        std::iter::once(&self.common).chain(self.narrow.iter().map(|(_, c)| c)).cloned().collect()
    }
}
