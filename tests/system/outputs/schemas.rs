//! JSON profiles, checked with the published schemas: OCSF's from a PyPI package, and ECS's from Elastic's
//! npm package.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use mailflow_agent::config::Profile;
use mailflow_common::{Scope, Vlans};
use mailflow_test_support::lab::{agent_binary, output, workspace};

use crate::{
    fixture::{EPOCH, key, record},
    peer::{alert, format, resolved},
};

/// PyPI packages: OCSF's schemas up to 1.8 with their JSON Schema, and a validator.
const PYTHON: [&str; 2] = ["ocsf-json-schema==1.2.0", "jsonschema==4.26.0"];
/// npm package with the fields of ECS 8.11.
const ECS: &str = "@elastic/ecs@8.11.5";
const FLAT: &str = "const { EcsFlat } = require('./package/build/commonjs/ecs_flat.js'); \
    require('fs').writeFileSync('flat.json', JSON.stringify(EcsFlat));";

fn schemas() -> PathBuf {
    workspace().join("target/lab/schemas")
}

/// Returns a Python with OCSF's schemas.
fn python() -> anyhow::Result<PathBuf> {
    let folder = schemas().join("python");
    let python = folder.join("bin/python");
    let knows = || Command::new(&python).args(["-c", "import ocsf_json_schema, jsonschema"]).output();
    if !knows().is_ok_and(|output| output.status.success()) {
        output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        output(Command::new(&python).args(pip).args(PYTHON))?;
    }
    Ok(python)
}

/// Returns the file with ECS's fields.
fn ecs_fields() -> anyhow::Result<PathBuf> {
    let folder = schemas().join("ecs");
    let flat = folder.join("flat.json");
    if !flat.exists() {
        fs::create_dir_all(&folder)?;
        let packed = output(Command::new("npm").args(["pack", "--silent", ECS]).current_dir(&folder))?;
        output(Command::new("tar").args(["xzf", packed.trim()]).current_dir(&folder))?;
        output(Command::new("node").args(["-e", FLAT]).current_dir(&folder))?;
    }
    Ok(flat)
}

/// Writes files with lines of a profile: each kind of event, and the output of a replay of captures, if there
/// are any.
pub(crate) fn lines(profile: Profile, name: &str) -> Vec<PathBuf> {
    let folder = std::env::temp_dir().join(format!("mailflow-schemas-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let mut tagged = record(key("10.0.0.9", 40_001, "192.0.2.1", 25));
    tagged.flow.key.scope = Scope::new(Vlans::default().push(20).push(30), 6, false);
    let six = record(key("2001:db8::9", 40_001, "2001:db8:1::1", 465));
    let mut made: Vec<String> =
        [&tagged, &six].map(|record| format(profile).flow_line(record, EPOCH).unwrap()).into();
    let firing = alert(7);
    for alert in [&firing, &resolved(&firing)] {
        made.push(format(profile).alert_line(alert, EPOCH).unwrap());
    }
    let own = folder.join("own.json");
    fs::write(&own, made.iter().map(|line| format!("{}\n", line.trim_end())).collect::<String>()).unwrap();
    let mut files = vec![own];

    let captures = workspace().join("../shared/captures/mail");
    let Ok(captures) = fs::read_dir(&captures) else {
        println!("SKIPPED in part: no captures at {}", captures.display());
        return files;
    };
    let captures = captures.map(|entry| entry.unwrap().path());
    let is_capture = |path: &PathBuf| path.to_string_lossy().contains(".pcap");
    let (flows, alerts) = (folder.join("flows.json"), folder.join("alerts.json"));
    let file = |path: &Path| format!("{{ type: file, path: {}, profile: {name} }}", path.display());
    let config = folder.join("config.yaml");
    let text = format!(
        "internal_networks: {{ networks: [0.0.0.0/0, \"::/0\"] }}\noutputs: {{ alerts: {}, flow_log: {} }}\n\
         rules: [{{ name: few, match: {{ source: any, destination: any }}, window: {{ length: 1h }}, \
         condition: {{ count: {{ at_least: 2 }} }}, labels: {{ team: mail }}, attack: [T1048.003, T1071.003] }}]\n",
        file(&alerts),
        file(&flows)
    );
    fs::write(&config, text).unwrap();
    let mut replay = Command::new(agent_binary().unwrap());
    replay.args(["replay", "--drain", "--config"]).arg(&config).args(captures.filter(is_capture));
    output(&mut replay).unwrap();
    for file in [&flows, &alerts] {
        assert!(fs::read_to_string(file).unwrap().lines().count() > 10, "{}", file.display());
    }
    files.extend([flows, alerts]);
    files
}

/// Validates the lines with a schema.
fn check(python: &Path, schema: &[&str], files: &[PathBuf]) {
    let script = workspace().join("tests/system/outputs/schemas.py");
    let found = Command::new(python).arg(script).args(schema).args(files).output().unwrap();
    let report = String::from_utf8_lossy(&found.stdout);
    assert!(found.status.success(), "{report}\n{}", String::from_utf8_lossy(&found.stderr));
    fs::remove_dir_all(files[0].parent().unwrap()).unwrap();
}

#[test]
fn ocsf_lines_are_valid() {
    match python() {
        Ok(python) => check(&python, &["ocsf"], &lines(Profile::Ocsf, "ocsf")),
        Err(error) => println!("SKIPPED: OCSF's schemas cannot be installed: {error:#}"),
    }
}

#[test]
fn ecs_lines_are_valid() {
    match ecs_fields() {
        Ok(fields) => {
            let (python, fields) = (Path::new("python3"), fields.display().to_string());
            check(python, &["ecs", &fields], &lines(Profile::Ecs, "ecs"));
        }
        Err(error) => println!("SKIPPED: ECS' fields cannot be had: {error:#}"),
    }
}
