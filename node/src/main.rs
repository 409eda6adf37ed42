//! The binary `weft`.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_node::cli::main_with(std::env::args_os())
}
