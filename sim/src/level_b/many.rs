//! Many seeds, each in a process of its own, as many at once as there are processors.

use std::io;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// Plays seeds and tells of each what became of it as soon as that is known: the hash of its trace, or what went wrong.
///
/// # Errors
/// When this program cannot be started again, or what `tell` says; then no further seed is begun.
pub fn play(seeds: &[u64], mut tell: impl FnMut(u64, Result<String, String>) -> io::Result<()>) -> io::Result<()> {
    let program = std::env::current_exe()?;
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (send, played) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let (send, next, over, program) = (send.clone(), &next, &over, &program);
            scope.spawn(move || {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let gone = over.load(Ordering::Relaxed) || send.send((*seed, play_one(program, *seed))).is_err();
                    if gone {
                        return;
                    }
                }
            });
        }
        drop(send);
        let told = played.iter().try_for_each(|(seed, result)| tell(seed, result?));
        over.store(true, Ordering::Relaxed);
        told
    })
}

fn play_one(program: &std::path::Path, seed: u64) -> io::Result<Result<String, String>> {
    let mut command = Command::new(program);
    command.args(["--level", "b", "--seed", &seed.to_string()]).stdin(Stdio::null());
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !said.is_empty() {
        return Ok(Ok(said));
    }
    let complained = String::from_utf8_lossy(&output.stderr);
    Ok(Err(format!("{}\n{}", output.status, complained.trim())))
}
