//! Keeps the hooks of this broker in step with the catalog, whichever broker changed it.

use std::sync::Arc;

use super::Plugins;
use crate::catalog::{CatalogState, Topic};

impl Plugins {
    /// Follows the catalog until it ends.
    pub async fn follow(self: Arc<Self>) {
        let mut catalog = self.catalog.watch();
        loop {
            catalog.mark_unchanged();
            self.catch_up().await;
            if catalog.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until all changes up to `version` of the catalog are in force here.
    pub async fn in_step(&self, version: u64) {
        let mut in_step = self.in_step.subscribe();
        // The sender lives as long as `self`.
        let _ = in_step.wait_for(|reached| *reached >= version).await;
    }

    /// Makes what runs on each topic what the catalog says.
    async fn catch_up(&self) {
        let _changing = self.changing.lock().await;
        // As it is now: what a change made that was under way must not be taken back.
        let state = self.catalog.snapshot();
        for topic in state.topics.values() {
            if self.runs_as_it_should(&state, topic) {
                continue;
            }
            if topic.bindings.is_empty() {
                self.hooks.remove(topic.id);
                continue;
            }
            self.install(topic).await;
        }
        for id in self.hooks.topics() {
            if !state.topics.values().any(|topic| topic.id == id) {
                self.hooks.remove(id);
            }
        }
        self.in_step.send_if_modified(|reached| {
            let later = *reached < state.version;
            *reached = (*reached).max(state.version);
            later
        });
    }

    fn runs_as_it_should(&self, state: &CatalogState, topic: &Topic) -> bool {
        if self.hooks.blocked(topic.id).is_some() {
            return false;
        }
        let running = self.hooks.bindings(topic.id);
        running.len() == topic.bindings.len()
            && running
                .iter()
                .zip(&topic.bindings)
                .all(|(running, wanted)| {
                    let plugin = state.plugins.get(&wanted.plugin);
                    let digest = plugin.map(|plugin| plugin.current.digest);
                    running.config() == wanted && Some(running.plugin().digest()) == digest
                })
    }
}
