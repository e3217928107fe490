//! Every kind of system: key-value stores, object stores, brokers.

use super::{Kind, Params, ParamsError};
use crate::systems::{System, kv, memory, objects, pubsub};
use schemars::JsonSchema;
use std::sync::Arc;

/// Every kind of system. Those of a feature that this binary lacks are listed too; building one says so.
pub const KINDS: &[Kind<System>] =
    &[MEMORY_KV, SQLITE, REDIS, MEMORY_OBJECTS, DIRECTORY, S3, MEMORY_BROKER, MQTT_BROKER];

const MEMORY_KV: Kind<System> = Kind {
    name: "memory_kv",
    about: "a key-value store in memory, empty after a restart",
    example: r#"{ "type": "memory_kv", "limit": "8MiB" }"#,
    schema: memory::Config::json_schema,
    build: |params| Ok(kv(Arc::new(kv::memory::MemoryKv::new(params.decode()?)))),
};

const SQLITE: Kind<System> = Kind {
    name: "sqlite",
    about: "a key-value store in an SQLite file of its own",
    example: r#"{ "type": "sqlite", "path": "devices.kv.db" }"#,
    schema: kv::sqlite::Config::json_schema,
    build: |params| {
        let Params { name, scope, .. } = &params;
        Ok(kv(Arc::new(kv::sqlite::SqliteKv::new(params.decode()?, name, &scope.data).map_err(wrong)?)))
    },
};

const REDIS: Kind<System> = Kind {
    name: "redis",
    about: "a key-value store on a Redis server; needs the feature `redis`",
    example: r#"{ "type": "redis", "url": "redis://localhost:6379", "prefix": "barn-7:" }"#,
    schema: kv::redis::Config::json_schema,
    build: |params| Ok(kv(kv::redis::new(params.decode()?).map_err(wrong)?)),
};

const MEMORY_OBJECTS: Kind<System> = Kind {
    name: "memory_objects",
    about: "an object store in memory, empty after a restart",
    example: r#"{ "type": "memory_objects", "limit": "16MiB" }"#,
    schema: memory::Config::json_schema,
    build: |params| Ok(objects(Arc::new(objects::memory::MemoryObjects::new(params.decode()?)))),
};

const DIRECTORY: Kind<System> = Kind {
    name: "directory",
    about: "an object store as files below a directory",
    example: r#"{ "type": "directory", "path": "objects" }"#,
    schema: objects::directory::Config::json_schema,
    build: |params| Ok(objects(Arc::new(objects::directory::Directory::new(params.decode()?).map_err(wrong)?))),
};

const S3: Kind<System> = Kind {
    name: "s3",
    about: "an object store on S3 or a server that speaks its protocol; needs the feature `s3`",
    example: r#"{
  "type": "s3",
  "endpoint": "https://s3.eu-central-1.amazonaws.com",
  "bucket": "readings", "region": "eu-central-1", "prefix": "barn-7/",
  "access_key": "AKIAEXAMPLE", "secret_key": "${cred:s3}"
}"#,
    schema: objects::s3::Config::json_schema,
    build: |params| Ok(objects(objects::s3::new(params.decode()?).map_err(wrong)?)),
};

const MEMORY_BROKER: Kind<System> = Kind {
    name: "memory_broker",
    about: "a broker inside the gateway, which keeps nothing for who does not listen",
    example: r#"{ "type": "memory_broker" }"#,
    schema: pubsub::memory::Config::json_schema,
    build: |params| Ok(pubsub(Arc::new(pubsub::memory::MemoryBroker::new(params.decode()?)))),
};

const MQTT_BROKER: Kind<System> = Kind {
    name: "mqtt_broker",
    about: "a broker that speaks MQTT",
    example: r#"{
  "type": "mqtt_broker",
  "url": "mqtts://broker.example.org",
  "username": "barn-7", "password": "${MQTT_PASSWORD:-secret}"
}"#,
    schema: pubsub::mqtt::Config::json_schema,
    build: |params| {
        let Params { name, scope, .. } = &params;
        let broker = pubsub::mqtt::MqttBroker::new(params.decode()?, &scope.gateway, name);
        Ok(pubsub(Arc::new(broker.map_err(wrong)?)))
    },
};

fn kv(kv: Arc<dyn kv::Kv>) -> Box<System> {
    Box::new(System::Kv(kv))
}

fn objects(objects: Arc<dyn objects::Objects>) -> Box<System> {
    Box::new(System::Objects(objects))
}

fn pubsub(pubsub: Arc<dyn pubsub::PubSub>) -> Box<System> {
    Box::new(System::PubSub(pubsub))
}

fn wrong((field, why): (String, String)) -> ParamsError {
    ParamsError::at(field, why)
}
