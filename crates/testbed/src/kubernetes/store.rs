//! The objects, and what happened to them: one version for all resources, counted up by every change.
//!
//! Pure. Invariants: versions rise by change and are never given twice; a state or an event once told for a version
//! is told the same until it is compacted; a change that changes nothing is none.
//!
//! Bounds: [`EVENTS_MAX`] events are kept, 256 MiB of them at a pod's 4 KiB; older ones count as compacted, and a
//! watch that is further behind is ended, as a real server ends one whose buffer is full.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::resource::Resource;
use crate::error::Error;

const EVENTS_MAX: usize = 65_536;
/// A cluster has a past before its first pod.
const FIRST_VERSION: u64 = 1_000;

/// Which object; the order is the order of lists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) resource: Resource,
    /// Empty where there is none.
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    pub(super) fn new(resource: Resource, namespace: &str, name: &str) -> Self {
        Self { resource, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn of(object: &Map<String, Value>) -> Option<Self> {
        let text = |map: &Map<String, Value>, name: &str| map.get(name)?.as_str().map(str::to_owned);
        let resource = Resource::of(&text(object, "apiVersion")?, &text(object, "kind")?)?;
        let metadata = object.get("metadata")?.as_object()?;
        let namespace = match resource.is_namespaced() {
            true => text(metadata, "namespace")?,
            false => String::new(),
        };
        Some(Self { resource, namespace, name: text(metadata, "name")? })
    }

    /// As a path: what a continue token holds.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// An object as it was from `version` on. Its text lacks `kind` and `apiVersion`, as the items of a list do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) version: u64,
    pub(super) text: Arc<str>,
}

impl Stored {
    fn value(&self) -> Value {
        serde_json::from_str(&self.text).expect("the store's own text is JSON")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventKind {
    Added,
    Modified,
    Deleted,
}

/// One change.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) kind: EventKind,
    pub(super) key: Key,
    /// The object after it; a deleted one as it was, with the version of its deletion.
    pub(super) object: Stored,
    before: Option<Stored>,
}

/// What is asked for is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Compacted;

#[derive(Debug)]
pub(super) struct Store {
    version: u64,
    /// Nothing at or below is told to those who ask anew.
    compacted: u64,
    /// Nothing at or below is known any more.
    forgotten: u64,
    objects: BTreeMap<Key, Stored>,
    /// In the order of versions, each once.
    events: VecDeque<Event>,
}

impl Store {
    pub(super) fn new() -> Self {
        let version = FIRST_VERSION;
        let (objects, events) = (BTreeMap::new(), VecDeque::new());
        Self { version, compacted: version, forgotten: version, objects, events }
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn compacted(&self) -> u64 {
        self.compacted
    }

    /// Creates or replaces; gives the object's version. One with another UID under a known name is another object:
    /// the old one is deleted first.
    ///
    /// Nothing but kind, name and namespace is checked: what else is wrong is for the reader to find.
    pub(super) fn apply(&mut self, object: Value) -> Result<u64, Error> {
        let malformed = |object: &Value| Error::Malformed { what: "an object", found: object.to_string() };
        let Value::Object(mut map) = object else { return Err(malformed(&object)) };
        let Some(key) = Key::of(&map) else { return Err(malformed(&Value::Object(map))) };
        map.remove("kind");
        map.remove("apiVersion");
        let uid = |object: &Value| object.pointer("/metadata/uid").cloned();
        let object = Value::Object(map);
        if self.objects.get(&key).is_some_and(|stored| uid(&stored.value()) != uid(&object)) {
            self.delete(&key)?;
        }
        Ok(self.put(key, object))
    }

    /// Applies a JSON merge patch (RFC 7386); gives the object's version.
    pub(super) fn patch(&mut self, key: &Key, patch: &Value) -> Result<u64, Error> {
        let mut object = self.stored(key)?.value();
        merge(&mut object, patch);
        Ok(self.put(key.clone(), object))
    }

    pub(super) fn delete(&mut self, key: &Key) -> Result<u64, Error> {
        let before = self.stored(key)?.clone();
        self.objects.remove(key);
        let object = self.stamped(before.value());
        self.remember(Event { kind: EventKind::Deleted, key: key.clone(), object, before: Some(before) });
        Ok(self.version)
    }

    /// The object with its kind, as GET would answer.
    pub(super) fn get(&self, key: &Key) -> Option<Value> {
        let mut value = self.objects.get(key)?.value();
        value["kind"] = key.resource.kind().into();
        value["apiVersion"] = key.resource.api_version().into();
        Some(value)
    }

    /// Whoever resumes from a version before now must list again. The version moves on, as it does in a cluster by
    /// changes of other resources.
    pub(super) fn compact(&mut self) {
        self.version += 1;
        self.compacted = self.version;
    }

    /// All objects of a resource as they were at `version`.
    pub(super) fn state(
        &self,
        resource: Resource,
        version: u64,
    ) -> Result<BTreeMap<&Key, &Stored>, Compacted> {
        if version < self.compacted {
            return Err(Compacted);
        }
        let objects = self.objects.iter().filter(|(key, _)| key.resource == resource);
        let mut state: BTreeMap<_, _> = objects.collect();
        for event in self.since(version).rev().filter(|event| event.key.resource == resource) {
            match &event.before {
                Some(before) => state.insert(&event.key, before),
                None => state.remove(&event.key),
            };
        }
        Ok(state)
    }

    /// What happened to a resource after `version`, for a watch that has been there all the time.
    pub(super) fn events(
        &self,
        resource: Resource,
        version: u64,
    ) -> Result<impl Iterator<Item = &Event>, Compacted> {
        if version < self.forgotten {
            return Err(Compacted);
        }
        Ok(self.since(version).filter(move |event| event.key.resource == resource))
    }

    fn since(&self, version: u64) -> impl DoubleEndedIterator<Item = &Event> {
        let start = self.events.partition_point(|event| event.object.version <= version);
        self.events.range(start..)
    }

    fn stored(&self, key: &Key) -> Result<&Stored, Error> {
        let Key { resource, namespace, name } = key;
        self.objects.get(key).ok_or_else(|| Error::NoObject {
            resource: resource.plural(),
            namespace: namespace.clone(),
            name: name.clone(),
        })
    }

    /// Creates or replaces an object without its kind; gives its version.
    pub(super) fn put(&mut self, key: Key, mut object: Value) -> u64 {
        let before = self.objects.get(&key).cloned();
        if let Some(before) = &before {
            object["metadata"]["resourceVersion"] = before.version.to_string().into();
            if object == before.value() {
                return before.version;
            }
        }
        let object = self.stamped(object);
        self.objects.insert(key.clone(), object.clone());
        let kind = if before.is_some() { EventKind::Modified } else { EventKind::Added };
        self.remember(Event { kind, key, object, before });
        self.version
    }

    /// With the next version.
    fn stamped(&mut self, mut object: Value) -> Stored {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        Stored { version: self.version, text: object.to_string().into() }
    }

    fn remember(&mut self, event: Event) {
        self.events.push_back(event);
        if self.events.len() > EVENTS_MAX
            && let Some(oldest) = self.events.pop_front()
        {
            self.forgotten = oldest.object.version;
            self.compacted = self.compacted.max(self.forgotten);
        }
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (name, value) in patch {
        match value {
            Value::Null => {
                target.as_object_mut().and_then(|map| map.remove(name));
            }
            value => merge(&mut target[name], value),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str, phase: &str) -> Value {
        json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": { "namespace": "shop", "name": name, "uid": uid },
            "status": { "phase": phase },
        })
    }

    fn key(name: &str) -> Key {
        Key::new(Resource::Pods, "shop", name)
    }

    /// `name=phase@version` of every pod.
    fn state(store: &Store, version: u64) -> Result<Vec<String>, Compacted> {
        let line = |(key, stored): (&Key, &Stored)| {
            let value = stored.value();
            assert_eq!(value["metadata"]["resourceVersion"], stored.version.to_string());
            format!("{}={}@{}", key.name, value["status"]["phase"].as_str().unwrap(), stored.version)
        };
        Ok(store.state(Resource::Pods, version)?.into_iter().map(line).collect())
    }

    fn events(store: &Store, version: u64) -> Result<Vec<String>, Compacted> {
        let line = |event: &Event| format!("{:?} {}@{}", event.kind, event.key.name, event.object.version);
        Ok(store.events(Resource::Pods, version)?.map(line).collect())
    }

    fn lived() -> Store {
        let mut store = Store::new();
        assert_eq!(store.apply(pod("a", "1", "Pending")).unwrap(), 1_001);
        assert_eq!(store.apply(pod("b", "2", "Running")).unwrap(), 1_002);
        assert_eq!(store.patch(&key("a"), &json!({ "status": { "phase": "Running" } })).unwrap(), 1_003);
        assert_eq!(store.delete(&key("b")).unwrap(), 1_004);
        store
    }

    /// Goal: every state and every event can be told as they were.
    #[test]
    fn states_and_events_are_told_for_each_version() {
        let store = lived();
        for (version, expected) in [
            (1_000, vec![]),
            (1_001, vec!["a=Pending@1001"]),
            (1_002, vec!["a=Pending@1001", "b=Running@1002"]),
            (1_003, vec!["a=Running@1003", "b=Running@1002"]),
            (1_004, vec!["a=Running@1003"]),
        ] {
            assert_eq!(state(&store, version).unwrap(), expected, "{version}");
        }
        let all = ["Added a@1001", "Added b@1002", "Modified a@1003", "Deleted b@1004"];
        assert_eq!(events(&store, 1_000).unwrap(), all);
        assert_eq!(events(&store, 1_002).unwrap(), all[2..]);
        assert_eq!(events(&store, 1_004).unwrap(), [""; 0]);
        assert_eq!(state(&store, 999), Err(Compacted));
    }

    /// Goal: the same again is no change; another UID is another object.
    #[test]
    fn a_change_is_an_event_and_a_namesake_another_object() {
        let mut store = lived();
        assert_eq!(store.apply(pod("a", "1", "Running")).unwrap(), 1_003);
        assert_eq!(store.version(), 1_004);
        assert_eq!(store.apply(pod("a", "9", "Pending")).unwrap(), 1_006);
        assert_eq!(events(&store, 1_004).unwrap(), ["Deleted a@1005", "Added a@1006"]);
        assert_eq!(store.get(&key("a")).unwrap()["kind"], "Pod");
        assert_eq!(store.get(&key("b")), None);
        assert!(store.delete(&key("b")).is_err());
        assert!(store.apply(json!({ "kind": "Pod", "apiVersion": "v1", "metadata": {} })).is_err());
        assert!(store.apply(json!({ "kind": "Service", "apiVersion": "v1" })).is_err());
    }

    /// Goal: compaction refuses those who resume, and takes nothing from a watch that is there.
    #[test]
    fn compaction_is_for_newcomers() {
        let mut store = lived();
        store.compact();
        assert_eq!(state(&store, 1_004), Err(Compacted));
        assert_eq!(state(&store, 1_005).unwrap(), ["a=Running@1003"]);
        assert_eq!(events(&store, 1_003).unwrap(), ["Deleted b@1004"]);
        store.apply(pod("c", "3", "Pending")).unwrap();
        assert_eq!(state(&store, 1_006).unwrap(), ["a=Running@1003", "c=Pending@1006"]);
    }

    /// Goal: a merge patch replaces, adds and removes as RFC 7386 says.
    #[test]
    fn patches_are_merged() {
        for (target, patch, expected) in [
            (json!({ "a": 1, "b": 2 }), json!({ "a": 3 }), json!({ "a": 3, "b": 2 })),
            (json!({ "a": 1, "b": 2 }), json!({ "a": null }), json!({ "b": 2 })),
            (json!({ "a": [1, 2] }), json!({ "a": [3] }), json!({ "a": [3] })),
            (
                json!({ "a": 1 }),
                json!({ "a": { "b": { "c": null, "d": 1 } } }),
                json!({ "a": { "b": { "d": 1 } } }),
            ),
        ] {
            let mut value = target.clone();
            merge(&mut value, &patch);
            assert_eq!(value, expected, "{target} {patch}");
        }
    }
}
