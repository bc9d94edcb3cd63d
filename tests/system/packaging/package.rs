//! Package, checked with Debian's tools.

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use mailflow_test_support::lab::{command, output};

/// Returns the path of the package.
pub(crate) fn package() -> PathBuf {
    std::env::var_os("MAILFLOW_PACKAGE").expect("`cargo xtask test packaging` sets MAILFLOW_PACKAGE").into()
}

fn dpkg(option: &str) -> String {
    output(Command::new("dpkg-deb").arg(option).arg(package())).unwrap()
}

#[test]
fn lintian_reports_nothing() {
    let mut lintian = command("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning"]).arg(package());
    let report = output(&mut lintian).unwrap();
    assert_eq!(report, "");
}

#[test]
fn package_has_documented_files_owned_by_root() {
    let contents = dpkg("--contents");
    let mut files = BTreeSet::new();
    for line in contents.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[1], "root/root", "{line}");
        assert!(!words[0][4..].contains('w') || words[0].as_bytes()[5] == b'-', "writable by others: {line}");
        if !words[5].ends_with('/') {
            files.insert(words[5].trim_start_matches('.').to_owned());
        }
    }
    let page = std::fs::read_to_string(mailflow_test_support::lab::workspace().join("docs/start/install.md"))
        .unwrap();
    let listed = page.lines().filter_map(|line| line.strip_prefix("| `/")?.split('`').next());
    let listed: Vec<_> = listed.map(|path| format!("/{path}")).collect();
    assert!(listed.len() > 8, "{listed:?}");
    for file in &listed {
        let there = files.iter().any(|path| path == file || (file.ends_with('/') && path.starts_with(file)));
        // Files that the agent or the unit creates are not in the package.
        let made = ["/var/", "/run/", "/sys/"].iter().any(|made| file.starts_with(made));
        assert!(there != made, "{file}");
    }
    for file in &files {
        let known = listed.iter().any(|path| path == file || (path.ends_with('/') && file.starts_with(path)));
        assert!(known, "{file} is not in docs/start/install.md");
    }
}

/// Man pages are those that the unit and the commands need, and the files that they name are in the package.
#[test]
fn package_has_what_man_pages_refer_to() {
    let folder = std::env::temp_dir().join(format!("mailflow-manual-{}", std::process::id()));
    output(Command::new("dpkg-deb").arg("--extract").arg(package()).arg(&folder)).unwrap();
    let mut named = BTreeSet::new();
    for page in dpkg("--contents").lines().filter_map(|line| line.split_whitespace().nth(5)) {
        if !page.contains("/usr/share/man/") || !page.ends_with(".gz") {
            continue;
        }
        let text =
            output(Command::new("gzip").args(["--decompress", "--stdout"]).arg(folder.join(page))).unwrap();
        let text = ["\\fB", "\\fI", "\\fR"]
            .iter()
            .fold(text.replace("\\-", "-"), |text, font| text.replace(font, ""));
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c)));
        let files = words.filter(|word| {
            ["/usr/share/doc/mailflow", "/usr/lib/", "/etc/logrotate.d/"]
                .iter()
                .any(|root| word.starts_with(root))
        });
        named.extend(files.map(|file| file.trim_end_matches(['.', '/']).trim_start_matches('/').to_owned()));
    }
    let missing: Vec<_> = named.iter().filter(|file| !folder.join(file).exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(named.len() > 15, "{named:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

/// Every library that the agent links is in the notices, with the text of the most common licence.
#[test]
fn package_has_licence_notices_of_linked_libraries() {
    let folder = std::env::temp_dir().join(format!("mailflow-notices-{}", std::process::id()));
    output(Command::new("dpkg-deb").arg("--extract").arg(package()).arg(&folder)).unwrap();
    let file = folder.join("usr/share/doc/mailflow-agent/THIRD-PARTY-NOTICES.gz");
    let notices = output(Command::new("gzip").args(["--decompress", "--stdout"]).arg(file)).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    let manifest =
        std::fs::read_to_string(mailflow_test_support::lab::workspace().join("mailflow-agent/Cargo.toml"));
    let manifest = manifest.unwrap();
    let dependencies = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let names = dependencies.lines().filter_map(|line| line.split_once('.').map(|(name, _)| name));
    let names: Vec<_> = names.filter(|name| !name.starts_with("mailflow-")).collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        let entry = notices.lines().find(|line| line.starts_with(&format!("{name} ")));
        assert!(entry.is_some_and(|line| line.contains(": ")), "{name} is missing");
    }
    assert!(notices.contains("Permission is hereby granted, free of charge"));
}

#[test]
fn conffiles_are_not_overwritten() {
    let shown = output(Command::new("dpkg-deb").arg("--info").arg(package()).arg("conffiles")).unwrap();
    assert_eq!(shown, "/etc/logrotate.d/mailflow-agent\n/etc/mailflow/mailflow.yaml\n");
}
