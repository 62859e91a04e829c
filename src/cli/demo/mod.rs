//! `dayfly demo`: the whole story on loopback, with real requests and real signatures. Each scene
//! says what must happen and fails if anything else does.

mod api;
mod platform;
mod story;
mod world;

use super::output::{Failure, Output};
use clap::Args;

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Tell the story and end: 0 if every scene went as told, 1 if not.
    #[arg(long)]
    once: bool,
}

pub async fn demo(args: DemoArgs, output: &Output) -> Result<u8, Failure> {
    let world = world::World::start().await?;
    let told = story::tell(&world, output).await;
    if args.once || told.is_err() {
        world.finish().await;
        return told.map(|()| 0);
    }
    world.invite(output)?;
    let interrupted = tokio::signal::ctrl_c().await;
    world.finish().await;
    interrupted
        .map(|()| 0)
        .map_err(|error| Failure::failed(error.to_string()))
}
