//! Grafana dashboards, drawn by Grafana's own panel components in Chromium: `xtask/dashboard`.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use mailflow_test_support::lab::{Ns, With, unpack};
use serde_json::json;

use crate::{
    terminal::{run, say},
    workspace,
};

/// Sources of the page and of the command that draws it.
const SOURCES: &str = "xtask/dashboard";
/// Shipped dashboards.
const DASHBOARDS: &str = "config/grafana";
/// Width of a picture, in pixels.
const WIDTH: u32 = 1200;
/// Scrape interval that the data source declares, in seconds. `$__rate_interval` follows from it; Prometheus scrapes
/// more often.
const SCRAPE_SECONDS: u64 = 5;

/// Picture of some rows of a dashboard.
struct Picture {
    name: &'static str,
    dashboard: &'static str,
    rows: &'static [&'static str],
}

const PICTURES: &[Picture] = &[
    Picture { name: "dashboard.png", dashboard: "mailflow.json", rows: &["Now", "Sources"] },
    Picture {
        name: "dashboard-traffic.png",
        dashboard: "mailflow.json",
        rows: &["Mail", "What the kernel sees", "The agents"],
    },
];

/// Time range and Prometheus of a drawing.
pub(super) struct Range {
    from: u64,
    to: u64,
    prometheus: SocketAddr,
}

impl Range {
    /// Returns the range of this length that ends now.
    pub(super) fn until_now(length: Duration, prometheus: SocketAddr) -> Self {
        let to = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { from: to.saturating_sub(length.as_secs()), to, prometheus }
    }
}

/// Built page and command, and Chromium.
pub(super) struct Renderer {
    home: PathBuf,
    chromium: PathBuf,
    libraries: String,
}

impl Renderer {
    /// Installs the pinned npm packages into `target/dashboard`, builds the page there, and unpacks Chromium.
    pub(super) fn build() -> Result<Self> {
        let sources = workspace::root().join(SOURCES);
        let home = workspace::root().join("target/dashboard");
        let src = home.join("src");
        if src.exists() {
            fs::remove_dir_all(&src)?;
        }
        fs::create_dir_all(&src).with_context(|| src.display().to_string())?;
        for name in ["package.json", "package-lock.json", "tsconfig.json"] {
            copy(&sources.join(name), &home.join(name))?;
        }
        for entry in fs::read_dir(sources.join("src"))? {
            let entry = entry?;
            copy(&entry.path(), &src.join(entry.file_name()))?;
        }
        copy(&src.join("page.html"), &home.join("page.html"))?;
        install(&home)?;

        let tool = |name: &str| {
            let mut tool = Command::new(home.join("node_modules/.bin").join(name));
            tool.current_dir(&home);
            tool
        };
        say("tsc: types");
        run(&mut tool("tsc"))?;
        say("esbuild: page.js, render.js");
        let bundle = ["--bundle", "--format=esm", "--log-level=warning"];
        // A font of @grafana/ui's code editor, which no panel uses.
        let page = [
            "src/page.tsx",
            "--outfile=page.js",
            "--loader:.ttf=empty",
            "--define:process.env.NODE_ENV=\"production\"",
        ];
        run(tool("esbuild").args(bundle).args(page))?;
        let render = ["src/render.ts", "--outfile=render.js", "--platform=node", "--packages=external"];
        run(tool("esbuild").args(bundle).args(render))?;

        let package = unpack("chromium-headless-shell", With::LibrariesAnd(&["chromium-common"]))?;
        say(format!("chromium {} in {}", package.version, package.root.display()));
        let mut libraries = package.libraries()?;
        // libpulse's own libraries are in a folder below.
        libraries.extend(libraries.clone().into_iter().map(|folder| format!("{folder}/pulseaudio")));
        let chromium = package.root.join("usr/lib/chromium/chromium-headless-shell");
        Ok(Self { home, chromium, libraries: libraries.join(":") })
    }

    /// Draws each shipped dashboard as a whole, which checks all its panels, and then the pictures into `folder`.
    pub(super) fn draw_all(&self, ns: &Ns, range: &Range, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(workspace::root().join(DASHBOARDS))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            say(format!("{name}: all rows"));
            let whole = self.home.join(&name).with_extension("png");
            self.draw(ns, range, &entry.path(), &[], &whole)?;
        }
        for Picture { name, dashboard, rows } in PICTURES {
            say(format!("{name}: {}", rows.join(", ")));
            let dashboard = workspace::root().join(DASHBOARDS).join(dashboard);
            self.draw(ns, range, &dashboard, rows, &folder.join(name))?;
        }
        Ok(())
    }

    /// Draws rows of a dashboard, or all of them, in the namespace of Prometheus.
    fn draw(&self, ns: &Ns, range: &Range, dashboard: &Path, rows: &[&str], picture: &Path) -> Result<()> {
        let Range { from, to, prometheus } = range;
        let settings = json!({
            "prometheus": format!("http://{prometheus}"), "from": from, "to": to, "scrapeSeconds": SCRAPE_SECONDS,
            "rows": rows, "width": WIDTH,
        });
        let file = self.home.join("settings.json");
        fs::write(&file, settings.to_string()).with_context(|| file.display().to_string())?;
        let mut node = ns.command("node");
        node.arg(self.home.join("render.js")).arg(&file).arg(dashboard).arg(&self.chromium).arg(picture);
        // Pictures of different machines have the same clock.
        node.env("LD_LIBRARY_PATH", &self.libraries).env("TZ", "UTC");
        run(&mut node).with_context(|| format!("{} cannot be drawn", dashboard.display()))
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
        .map(drop)
}

/// Installs the packages of the lock file, unless they are installed already.
fn install(home: &Path) -> Result<()> {
    let lock = fs::read(home.join("package-lock.json"))?;
    let installed = home.join("node_modules/.mailflow-lock.json");
    if fs::read(&installed).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    say("npm ci: some minutes");
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
    npm.args(["--omit-lockfile-registry-resolved"]);
    run(npm.current_dir(home))?;
    fs::write(&installed, lock).with_context(|| installed.display().to_string())
}
