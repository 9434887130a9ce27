//! One life of a pod, by UID: on its node, under traffic, and in the Kubernetes API as scheduler and kubelet tell it.
//!
//! ```text
//!   begin, speak ─ report ─────────── ask_to_end ────────── end ──────────── report ────── delete
//!   bound, sends   Running, podIPs    deletionTimestamp     sends no more    finishedAt    gone
//!   and receives                                            network gone
//! ```
//!
//! What happens on the node is at once; the API hears of it when its step is called, as it hears of it a second or
//! two late from a kubelet, whose start and finish times are nevertheless those of the event. A step may be left out:
//! the pod of a Job is not deleted, a pod deleted by force has no finish.
//!
//! Invariant: a life is over only when its traffic is, so what its address sends and receives later is its successor's.

use std::path::Path;

use crate::cluster::{Cluster, Truth};
use crate::error::Error;
use crate::kubernetes::{KubernetesApi, Pod, Workload, seconds_ago};
use crate::namespace::Namespace;
use crate::process::Process;
use crate::residents::Resident;
use crate::scenario::{Sender, plan_between_lives, start_servers};
use crate::topology::{Pair, node_named};

/// Who is to live, where, and under which addresses. Two lives of the same are two pods of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifePlan {
    /// Its Kubernetes namespace.
    pub namespace: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The name of its node.
    pub node: &'static str,
    /// Its addresses, of the node's pod ranges.
    pub addresses: Pair,
    /// What keeps it running.
    pub workload: Workload,
}

impl LifePlan {
    /// As `namespace/name`.
    #[must_use]
    pub fn qualified_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A pod's life. Dropping it ends its programs and nothing else.
#[derive(Debug)]
pub struct Life<'c> {
    cluster: &'c Cluster,
    program: &'c Path,
    plan: LifePlan,
    object: Pod,
    /// `None` once it has ended.
    body: Option<Body>,
}

#[derive(Debug)]
struct Body {
    resident: Resident,
    server: Process,
    silent: Vec<Sender>,
    senders: Vec<Sender>,
}

impl<'c> Life<'c> {
    /// Creates the pod, binds it to its node and starts it with a traffic server. The API knows no address yet.
    /// `program` is `egressd-testbed`.
    ///
    /// # Errors
    /// As [`Cluster::move_in`].
    pub fn begin(
        cluster: &'c Cluster,
        program: &'c Path,
        api: &KubernetesApi,
        plan: &LifePlan,
    ) -> Result<Self, Error> {
        let node = node_named(plan.node).ok_or_else(|| Error::UnknownPlace(plan.node.to_owned()))?;
        let pending = Pod::new(plan.namespace, plan.name).workload(plan.workload.clone());
        api.apply(&pending)?;
        let bound = pending.scheduled(node.name, &node.addresses.both());
        api.apply(&bound)?;
        Self::start(cluster, program, plan, bound)
    }

    fn start(cluster: &'c Cluster, program: &'c Path, plan: &LifePlan, bound: Pod) -> Result<Self, Error> {
        // The kubelet writes the start down before it asks for the pod's network.
        let object = bound.running(seconds_ago(0), &plan.addresses.both());
        let resident = cluster.move_in(plan.namespace, plan.name, plan.node, plan.addresses)?;
        let mut servers = start_servers(cluster, program, vec![(plan.name, resident.namespace())])?;
        let server = servers.remove(0);
        let body = Some(Body { resident, server, silent: Vec::new(), senders: Vec::new() });
        Ok(Self { cluster, program, plan: plan.clone(), object, body })
    }

    /// Its plan.
    #[must_use]
    pub fn plan(&self) -> &LifePlan {
        &self.plan
    }

    /// Its network namespace; `None` once it has ended.
    #[must_use]
    pub fn network(&self) -> Option<&Namespace> {
        self.body.as_ref().map(|body| body.resident.namespace())
    }

    /// Gets it a conversation with `peer` at `addresses`, both ways and of every kind, from [`speak`](Self::speak) until
    /// its end.
    ///
    /// # Errors
    /// [`Error::Os`] when a sender does not start, [`Error::UnknownPlace`] after its end.
    pub fn converse(&mut self, peer: &Namespace, addresses: Pair) -> Result<(), Error> {
        let Self { cluster, program, plan, .. } = self;
        let body = self.body.as_mut().ok_or_else(|| Error::UnknownPlace(plan.qualified_name()))?;
        let own = body.resident.namespace().clone();
        for (from, to) in [(&own, addresses), (peer, plan.addresses)] {
            let name = format!("{}-with-{}-from-{}", plan.name, peer.name(), from.name());
            body.silent.push(Sender::prepare(cluster, program, from, &name, plan_between_lives(to))?);
        }
        Ok(())
    }

    /// Begins all its conversations that have not begun, at once.
    ///
    /// # Errors
    /// [`Error::Os`] when a sender has gone.
    pub fn speak(&mut self) -> Result<(), Error> {
        let Some(body) = &mut self.body else { return Ok(()) };
        for mut sender in body.silent.drain(..) {
            sender.begin()?;
            body.senders.push(sender);
        }
        Ok(())
    }

    /// The kubelet has noticed how it is: that it runs, or that its container has ended.
    ///
    /// # Errors
    /// None of a healthy store.
    pub fn report(&self, api: &KubernetesApi) -> Result<(), Error> {
        api.apply(&self.object).map(drop)
    }

    /// Somebody deletes it: it has 30 s to end.
    ///
    /// # Errors
    /// None of a healthy store.
    pub fn ask_to_end(&mut self, api: &KubernetesApi) -> Result<(), Error> {
        self.object = self.object.clone().terminating(seconds_ago(0), 30);
        api.apply(&self.object).map(drop)
    }

    /// Its traffic ends, then its container, then its network goes. Gives what the nodes forwarded for it; empty when
    /// it had ended before.
    ///
    /// # Errors
    /// [`Error::Traffic`] when an exchange failed, else as [`Cluster::move_out`].
    pub fn end(&mut self, exit_code: i32) -> Result<Truth, Error> {
        let Some(Body { resident, mut server, senders, .. }) = self.body.take() else {
            return Ok(Truth::default());
        };
        senders.into_iter().try_for_each(|sender| sender.finish().map(drop))?;
        server.kill()?;
        self.object = self.object.clone().finished(seconds_ago(0), exit_code);
        self.cluster.move_out(resident)
    }

    /// The object goes, as the API has it.
    ///
    /// # Errors
    /// [`Error::NoObject`] when it is gone.
    pub fn delete(self, api: &KubernetesApi) -> Result<(), Error> {
        api.delete_pod(self.plan.namespace, self.plan.name).map(drop)
    }
}
