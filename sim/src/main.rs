//! The binary `weft-sim`.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_sim::huge_pages::ask_for();
    weft_sim::cli::main_with(std::env::args_os())
}
