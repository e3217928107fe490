//! `tidegate run`: the gateway, from the start to the end.

use super::{BAD_CONFIGURATION, block_on, catalogue, finish, show};
use crate::{
    admin,
    config::{self, Before, Problem},
    runtime::{self, Origin},
};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Runs the gateway, again whenever it is to start again as a whole.
pub(super) fn gateway(file: &Path, stateless: bool) -> ExitCode {
    let origin = Origin { file, build: &|text, before| built(file, text, before) };
    loop {
        let (mut text, mut plan, mut warnings) = match config::read(file).map_err(|problem| vec![problem]) {
            Err(problems) => return wrong(&problems),
            Ok(text) => match built(file, &text, None) {
                Err(problems) => return wrong(&problems),
                Ok((plan, warnings)) => (text, plan, warnings),
            },
        };
        let store = PathBuf::from(&plan.settings.store.path);
        if let Some(instead) = (!stateless).then(|| runtime::at_start(file, &text, &store)).flatten() {
            match built(file, &instead, None) {
                Ok(built) => (text, (plan, warnings)) = (instead, built),
                Err(problems) => show("the version before is not right any more: ", &problems),
            }
        }
        show("warning: ", &warnings);
        let face = move |settings, running| admin::serve(settings, running, stateless);
        match block_on(runtime::run(plan, text, &origin, stateless, face)) {
            Ok(runtime::End::Reload) => log::info!("starting again with `{}`", file.display()),
            ended => return finish(ended.map(drop)),
        }
    }
}

fn wrong(problems: &[Problem]) -> ExitCode {
    show("", problems);
    ExitCode::from(BAD_CONFIGURATION)
}

/// What a text says that stands, or is to stand, in a file.
pub(super) fn built(
    file: &Path,
    text: &str,
    before: Option<&Before>,
) -> Result<(runtime::Plan, Vec<Problem>), Vec<Problem>> {
    let (plan, warnings) = config::load_after(file, text, &catalogue(), before)?;
    match runtime::Sum::of(&plan) {
        Ok(_) => Ok((plan, warnings)),
        Err(why) => Err(vec![config::found(file, text, "gateway.memory", why)]),
    }
}
