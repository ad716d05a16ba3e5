//! Writes the disk: a DOS partition table, FAT32 for the firmware, ext4 for the system. All identifiers come from
//! the recipe, all times from its epoch, and all tools from the image's own suite.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::BuildError;
use super::job::{Workshop, put};
use super::recipe::Recipe;
use super::rootfs::{self, Tree};

const MIB: u64 = 1 << 20;
/// Where the boot partition begins, aligned to the erase blocks of cards.
const BOOT_START_MIB: u64 = 8;

/// Writes the image into the workshop and answers its path.
pub(super) fn write(
    recipe: &Recipe,
    tree: &Tree,
    tools: &Path,
    shop: &Workshop<'_>,
) -> Result<PathBuf, BuildError> {
    shop.watch().begin("writing the disk", None);
    let tool_root = shop.path("tools");
    rootfs::unpack(tools, &tool_root, shop)?;
    let work = tool_root.join("work");
    let archive = work.join("root.tar");
    fs::create_dir_all(&work).map_err(BuildError::file("create", &work))?;
    rootfs::pack(&tree.root, &archive, recipe.source_date_epoch, shop)?;
    let boot = work.join("boot");
    fs::rename(&tree.boot, &boot).map_err(BuildError::file("move", &tree.boot))?;

    let bytes = fs::metadata(&archive)
        .map_err(BuildError::file("read", &archive))?
        .len();
    // Inodes, journal and block rounding take about a tenth.
    let root_mib = bytes.div_ceil(MIB) * 11 / 10 + 64 + recipe.root.slack_mib;
    let root_start_mib = BOOT_START_MIB + recipe.boot.size_mib;
    let image = work.join("disk.img");
    File::create(&image)
        .and_then(|file| file.set_len((root_start_mib + root_mib + 1) * MIB))
        .map_err(BuildError::file("write", &image))?;
    let table = table(recipe, root_start_mib, root_mib);
    put(&work.join("table"), table.as_bytes())?;
    put(
        &work.join("fill"),
        fill(recipe, &boot, root_start_mib, root_mib)?.as_bytes(),
    )?;
    shop.inside(
        "writing the disk",
        &tool_root,
        &["sh", "-eux", "/work/fill"],
    )?;
    Ok(image)
}

/// What `sfdisk` reads.
fn table(recipe: &Recipe, root_start_mib: u64, root_mib: u64) -> String {
    let sectors = |mib: u64| mib * MIB / 512;
    format!(
        "label: dos\nlabel-id: 0x{}\nunit: sectors\n\
         start={}, size={}, type=c, bootable\n\
         start={}, size={}, type=83\n",
        recipe.disk_id,
        sectors(BOOT_START_MIB),
        sectors(recipe.boot.size_mib),
        sectors(root_start_mib),
        sectors(root_mib),
    )
}

/// The steps inside the tools' root. Files are named one folder at a time and sorted, since their order on the
/// FAT is the order of their writing.
fn fill(
    recipe: &Recipe,
    boot: &Path,
    root_start_mib: u64,
    root_mib: u64,
) -> Result<String, BuildError> {
    let boot_start = BOOT_START_MIB * MIB;
    let mut script = format!(
        "sfdisk --quiet /work/disk.img < /work/table\n\
         mkfs.vfat --invariant -F 32 -n {label} -i {id} --offset {sector} /work/disk.img {blocks}\n\
         export MTOOLSRC=/dev/null\n",
        label = recipe.boot.label,
        id = recipe.boot.volume_id,
        sector = boot_start / 512,
        blocks = recipe.boot.size_mib * MIB / 1024,
    );
    let mut folders = vec![PathBuf::new()];
    let mut at = 0;
    while at < folders.len() {
        let folder = folders[at].clone();
        at += 1;
        let mut names: Vec<_> = fs::read_dir(boot.join(&folder))
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(BuildError::file("read", &boot.join(&folder)))?
            .into_iter()
            .map(|entry| (entry.file_name(), entry.path().is_dir()))
            .collect();
        names.sort();
        let mut files = String::new();
        for (name, is_dir) in names {
            let path = folder.join(name);
            if is_dir {
                script.push_str(&format!(
                    "mmd -i /work/disk.img@@{boot_start} '::/{}'\n",
                    path.display()
                ));
                folders.push(path);
            } else {
                files.push_str(&format!(" '/work/boot/{}'", path.display()));
            }
        }
        if !files.is_empty() {
            script.push_str(&format!(
                "mcopy -m -i /work/disk.img@@{boot_start}{files} '::/{}'\n",
                folder.display()
            ));
        }
    }
    script.push_str(&format!(
        "mke2fs -q -t ext4 -L {label} -U {uuid} -E hash_seed={uuid},lazy_itable_init=0,offset={offset} \
         -d /work/root.tar /work/disk.img {blocks}k\n",
        label = recipe.root.label,
        uuid = recipe.root.uuid,
        offset = root_start_mib * MIB,
        blocks = root_mib * 1024,
    ));
    Ok(script)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_in_the_order_of_their_names() {
        let recipe = Recipe::parse(include_str!("../../../image/base.yml")).unwrap();
        let boot = tempfile::tempdir().unwrap();
        for name in [
            "config.txt",
            "overlays/b.dtbo",
            "overlays/a.dtbo",
            "cmdline.txt",
        ] {
            put(&boot.path().join(name), b"").unwrap();
        }
        let script = fill(&recipe, boot.path(), 392, 1000).unwrap();
        let lines: Vec<&str> = script.lines().skip(3).collect();
        assert_eq!(
            lines,
            [
                "mmd -i /work/disk.img@@8388608 '::/overlays'",
                "mcopy -m -i /work/disk.img@@8388608 '/work/boot/cmdline.txt' '/work/boot/config.txt' '::/'",
                "mcopy -m -i /work/disk.img@@8388608 '/work/boot/overlays/a.dtbo' '/work/boot/overlays/b.dtbo' '::/overlays'",
                "mke2fs -q -t ext4 -L rootfs -U 6c656b69-7769-4000-8000-726f6f746673 -E hash_seed=6c656b69-7769-4000-8000-726f6f746673,lazy_itable_init=0,offset=411041792 -d /work/root.tar /work/disk.img 1024000k",
            ]
        );
        assert_eq!(
            table(&recipe, 392, 1000),
            "label: dos\nlabel-id: 0x4c4b4853\nunit: sectors\nstart=16384, size=786432, type=c, bootable\nstart=802816, size=2048000, type=83\n"
        );
    }
}
