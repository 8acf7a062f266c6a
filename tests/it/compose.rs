//! compose.yaml and scripts/services start the same services: the same versions behind the same addresses.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

#[derive(Deserialize)]
struct Compose {
    services: BTreeMap<String, Service>,
}

#[derive(Deserialize)]
struct Service {
    image: String,
    #[serde(default)]
    ports: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, serde_yaml_ng::Value>,
    #[serde(default)]
    network_mode: Option<String>,
    #[serde(default)]
    entrypoint: Vec<String>,
}

impl Service {
    fn version(&self) -> &str {
        self.image.rsplit_once(':').expect("an image has a tag").1
    }

    /// Ports on the host; all of them on 127.0.0.1.
    fn ports(&self) -> BTreeSet<&str> {
        self.ports
            .iter()
            .map(|port| {
                let parts: Vec<_> = port.split(':').collect();
                assert_eq!((parts.len(), parts[0]), (3, "127.0.0.1"), "{port} is open to other machines");
                parts[1]
            })
            .collect()
    }
}

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The defaults of a shell script: `NAME=${NAME:-value}`.
fn defaults(script: &str) -> BTreeMap<String, String> {
    let words = script.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(str::split_whitespace);
    let default = |word: &str| {
        let (name, value) = word.trim_end_matches(';').split_once("=${")?;
        let value = value.strip_prefix(name)?.strip_prefix(":-")?.strip_suffix('}')?;
        Some((name.to_string(), value.to_string()))
    };
    words.filter_map(default).collect()
}

#[test]
fn compose_has_the_versions_and_ports_of_the_script() {
    let compose: Compose = serde_yaml_ng::from_str(&read("compose.yaml")).unwrap();
    let script = defaults(&read("scripts/services"));
    let expected = [
        ("kafka", "KAFKA_VERSION", &["KAFKA_PORT"][..]),
        ("cassandra", "CASSANDRA_VERSION", &["CASSANDRA_PORT"]),
        ("hdfs", "HADOOP_VERSION", &["HDFS_PORT", "HDFS_NN_HTTP_PORT", "HDFS_DN_PORT", "HDFS_DN_HTTP_PORT", "HDFS_DN_IPC_PORT"]),
        ("mariadb", "MARIADB_VERSION", &["MARIADB_PORT"]),
        ("postgres", "POSTGRES_VERSION", &["POSTGRES_PORT"]),
        ("s3", "MOTO_VERSION", &["S3_PORT"]),
    ];
    for (name, version, ports) in expected {
        let service = &compose.services[name];
        assert_eq!(service.version(), script[version], "{name}");
        assert_eq!(service.ports(), ports.iter().map(|p| script[*p].as_str()).collect(), "{name}");
    }
    let named: BTreeSet<_> = expected.iter().map(|(name, ..)| *name).chain(["hdfs-datanode", "s3-bucket"]).collect();
    assert_eq!(compose.services.keys().map(String::as_str).collect::<BTreeSet<_>>(), named);
}

#[test]
fn the_two_halves_of_hdfs_are_one_version_in_one_network() {
    let compose: Compose = serde_yaml_ng::from_str(&read("compose.yaml")).unwrap();
    let (name, data) = (&compose.services["hdfs"], &compose.services["hdfs-datanode"]);
    assert_eq!((&data.image, data.network_mode.as_deref()), (&name.image, Some("service:hdfs")));
    assert!(name.environment.contains_key("CORE-SITE.XML_fs.defaultFS"));
}

#[test]
fn the_s3_of_both_is_one_program_with_one_bucket() {
    let compose: Compose = serde_yaml_ng::from_str(&read("compose.yaml")).unwrap();
    let (s3, bucket) = (&compose.services["s3"], &compose.services["s3-bucket"]);
    assert_eq!((&bucket.image, bucket.network_mode.as_deref()), (&s3.image, Some("service:s3")));
    let script = read("scripts/services");
    let defaults = defaults(&script);
    let port = defaults["S3_PORT"].as_str();
    assert!(script.contains("\"$PARTS/s3.py\" \"$S3_PORT\"") && script.contains("http://127.0.0.1:$S3_PORT/orderflow"));
    assert_eq!(s3.entrypoint, ["python", "/s3.py", port, "0.0.0.0"]);
    let makes = bucket.entrypoint.last().unwrap();
    assert!(makes.contains(&format!("http://127.0.0.1:{port}\"")) && makes.contains("Bucket=\"orderflow\""), "{makes}");
}

#[test]
fn what_clients_are_told_is_what_is_published() {
    let compose: Compose = serde_yaml_ng::from_str(&read("compose.yaml")).unwrap();
    let script = defaults(&read("scripts/services"));
    let advertised = &compose.services["kafka"].environment["KAFKA_ADVERTISED_LISTENERS"];
    assert_eq!(advertised.as_str(), Some(&*format!("PLAINTEXT://127.0.0.1:{}", script["KAFKA_PORT"])));
}

#[test]
fn databases_have_the_users_and_passwords_of_the_script() {
    let compose: Compose = serde_yaml_ng::from_str(&read("compose.yaml")).unwrap();
    let script = read("scripts/services");
    for (service, scheme, prefix, database) in
        [("mariadb", "mysql", "MARIADB", "MARIADB_DATABASE"), ("postgres", "postgres", "POSTGRES", "POSTGRES_DB")]
    {
        let of = |name: &str| compose.services[service].environment[name].as_str().unwrap();
        let (user, password) = (of(&format!("{prefix}_USER")), of(&format!("{prefix}_PASSWORD")));
        let address = format!("{service}_addr() {{ echo \"{scheme}://{user}:{password}@127.0.0.1:${prefix}_PORT/{}\"; }}", of(database));
        assert!(script.contains(&address), "{address}");
    }
}

#[test]
fn the_poms_have_the_versions_of_the_script() {
    let script = defaults(&read("scripts/services"));
    for (pom, property, version) in [
        ("kafka", "kafka.version", "KAFKA_VERSION"),
        ("cassandra", "cassandra.version", "CASSANDRA_VERSION"),
        ("hdfs", "hadoop.version", "HADOOP_VERSION"),
    ] {
        let text = read(&format!("scripts/services.d/{pom}-pom.xml"));
        let expected = format!("<{property}>{}</{property}>", script[version]);
        assert!(text.contains(&expected), "{pom}-pom.xml has no {expected}");
    }
}
