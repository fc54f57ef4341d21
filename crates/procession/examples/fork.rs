//! `fork` is called once and returns twice: 0 in the new process, the new process's number in the old one. Which of the two
//! prints first is up to the scheduler.

use procession::{current, fork, Fork};

fn main() -> procession::Result<()> {
    println!("{}", current().pid());
    let forked = fork()?;
    println!("{}", forked.pid());
    match forked {
        Fork::Child => {
            println!(
                "I am child process ({}) and my parent is {}.",
                current().pid(),
                current().parent_pid()
            );
        }
        Fork::Parent(child) => {
            println!(
                "I ({}) just created a child process ({}).",
                current().pid(),
                Fork::Parent(child).pid()
            );
        }
    }
    Ok(())
}
