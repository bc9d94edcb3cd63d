//! `interfaces`: the watched interfaces, their roles and hooks.

use std::collections::HashSet;

use mailflow_kernel::{
    NamePattern,
    options::{Hook, Interface, Role},
};

use crate::config::{
    diagnostics::DiagnosticSink,
    scalar::interface,
    yaml::{
        get::{Cursor, MappingReader},
        values::{choice, items, parsed},
    },
};

/// Reads the list of interfaces.
pub(crate) fn read(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<Vec<Interface>> {
    let mut names = HashSet::new();
    let mut listed: Vec<(String, Cursor<'_>)> = Vec::new();
    let interfaces = items(cursor, diagnostics, |item, diagnostics| {
        MappingReader::read(item, diagnostics, |mapping| {
            let name = mapping.required("name", |cursor, diagnostics| {
                let name = parsed(cursor, diagnostics, "the name of an interface", interface)?;
                if names.insert(name.clone()) {
                    listed.push((name.clone(), cursor.clone()));
                    Some(name)
                } else {
                    cursor.reject(diagnostics, "this interface is in the list already")
                }
            });
            let roles = Role::ALL.map(|role| (role.name(), role));
            let role = mapping
                .optional("role", Role::default(), |cursor, diagnostics| choice(cursor, diagnostics, &roles));
            let hooks = Hook::ALL.map(|hook| (hook.name(), hook));
            let hook = mapping
                .optional("hook", Hook::default(), |cursor, diagnostics| choice(cursor, diagnostics, &hooks));
            Some(Interface { name: name?, role: role?, hook: hook? })
        })
    })?;
    warn_of_overlap(&listed, diagnostics);
    interfaces.into_iter().collect()
}

/// Warns about each name that a pattern of the list matches too.
fn warn_of_overlap(listed: &[(String, Cursor<'_>)], diagnostics: &mut DiagnosticSink) {
    let pattern = |name: &str| NamePattern::is_pattern(name).then(|| NamePattern::parse(name).ok()).flatten();
    let patterns: Vec<_> = listed.iter().filter_map(|(name, _)| Some((name, pattern(name)?))).collect();
    for (name, cursor) in listed.iter().filter(|(name, _)| !NamePattern::is_pattern(name)) {
        if let Some((pattern, _)) = patterns.iter().find(|(_, pattern)| pattern.matches(name)) {
            cursor.warn(
                diagnostics,
                format!("\"{name}\": the entry {pattern} matches it too; the entry with the name decides"),
            );
        }
    }
}
