//! Form of the dashboard. The `fleet` module runs its queries with a Prometheus that scrapes real agents.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::files::{DASHBOARD, families, families_in, panels, text};

#[test]
fn panels_have_descriptions_and_units() {
    let panels = panels();
    assert!(panels.len() > 25, "{}", panels.len());
    let known = families();
    let mut ids = BTreeSet::new();
    for panel in &panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: id");
        assert!(panel["description"].as_str().unwrap().ends_with('.'), "{title}: description");
        assert!(!panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap().is_empty(), "{title}: unit");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            for family in families_in(target["expr"].as_str().unwrap()) {
                assert!(known.contains(&family), "{title}: {family}");
            }
        }
    }
}

#[test]
fn units_are_those_of_top_and_idle_graphs_have_a_small_scale() {
    for panel in panels() {
        let defaults = &panel["fieldConfig"]["defaults"];
        let unit = defaults["unit"].as_str().unwrap();
        // Grafana's `bytes` is binary, `cps` reads "c/s".
        assert!(!["bytes", "cps", "binBps"].contains(&unit), "{}: {unit}", panel["title"]);
        if panel["type"] == "timeseries" && unit == "suffix:/s" {
            // Without it an axis of zeros goes up to 100.
            assert_eq!(defaults["custom"]["axisSoftMax"], 1, "{}", panel["title"]);
        }
    }
}

/// Values of rules with different thresholds cannot be compared.
#[test]
fn window_values_are_shares_of_their_thresholds() {
    let mut shares = 0;
    for panel in panels() {
        for target in panel["targets"].as_array().unwrap() {
            if target["expr"].as_str().unwrap().contains("mailflow_window_value") {
                shares += 1;
                assert!(
                    target["expr"].as_str().unwrap().contains("mailflow_rule_threshold"),
                    "{}",
                    panel["title"]
                );
                assert_eq!(panel["fieldConfig"]["defaults"]["unit"], "percentunit", "{}", panel["title"]);
            }
        }
    }
    assert!(shares > 0);
}

#[test]
fn panels_do_not_overlap() {
    let cells = |panel: &Value| {
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        let (x, y, w, h) = (side("x"), side("y"), side("w"), side("h"));
        assert!(x + w <= 24, "{}", panel["title"]);
        (x..x + w).flat_map(move |x| (y..y + h).map(move |y| (x, y))).collect::<Vec<_>>()
    };
    let mut taken = BTreeSet::new();
    for panel in panels() {
        assert!(cells(&panel).into_iter().all(|cell| taken.insert(cell)), "{}", panel["title"]);
    }
}

#[test]
fn the_data_source_and_the_gateway_can_be_chosen() {
    let dashboard: Value = serde_json::from_str(&text(DASHBOARD)).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let of = |kind: &str| variables.iter().filter(|variable| variable["type"] == kind).count();
    assert_eq!((of("datasource"), of("query")), (1, 1));
}
