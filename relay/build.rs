//! Makes the folder of the dashboard's built files, so that a relay can be built before the dashboard, and
//! has the relay built anew when they change.

fn main() -> std::io::Result<()> {
    std::fs::create_dir_all("dashboard/dist")?;
    println!("cargo::rerun-if-changed=dashboard/dist");
    Ok(())
}
