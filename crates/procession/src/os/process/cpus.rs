use std::fs;
use std::path::{Path, PathBuf};

/// How many CPUs the calling thread may run on: its affinity mask. At least 1.
pub fn available_cpus() -> usize {
    match rustix::thread::sched_getaffinity(None) {
        Ok(cpus) => cpus.count().max(1) as usize,
        // More CPUs than fit into the set that was asked with.
        Err(_) => std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// How many CPUs' worth of time the process's control groups grant it, such as 1.5; `None` if they set no limit. The
/// tightest limit from the process's own group up to the root counts, of cgroup v1 and v2 alike.
pub fn cgroup_cpus() -> Option<f64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    controller_directories(&groups, &mounts)
        .iter()
        .flat_map(|group| {
            group
                .directory
                .ancestors()
                .take_while(|path| path.starts_with(&group.mount_point))
        })
        .filter_map(quota_of)
        .reduce(f64::min)
}

#[derive(Debug, PartialEq, Eq)]
struct GroupDirectory {
    mount_point: PathBuf,
    directory: PathBuf,
}

/// Where the files of the process's CPU groups are: at most one directory in v1 and one in v2.
fn controller_directories(groups: &str, mounts: &str) -> Vec<GroupDirectory> {
    let group_of = |wanted_v2: bool| {
        groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let matches = if wanted_v2 {
                controllers.is_empty()
            } else {
                controllers.split(',').any(|name| name == "cpu")
            };
            matches.then_some(path)
        })
    };
    mounts
        .lines()
        .filter_map(|line| {
            // "36 35 98:0 /root /mount/point options [optional fields] - type source super,options"
            let (left, right) = line.split_once(" - ")?;
            let (root, mount_point) = {
                let mut fields = left.split(' ').skip(3);
                (fields.next()?, fields.next()?)
            };
            let mut right = right.split(' ');
            let (kind, super_options) = (right.next()?, right.nth(1)?);
            let group = match kind {
                "cgroup2" => group_of(true)?,
                "cgroup" if super_options.split(',').any(|option| option == "cpu") => group_of(false)?,
                _ => return None,
            };
            // In a container the mount may show only a part of the tree.
            let inside = Path::new(group).strip_prefix(root).unwrap_or(Path::new(""));
            let mount_point = PathBuf::from(mount_point);
            Some(GroupDirectory {
                directory: mount_point.join(inside.strip_prefix("/").unwrap_or(inside)),
                mount_point,
            })
        })
        .collect()
}

fn quota_of(directory: &Path) -> Option<f64> {
    let read = |name: &str| fs::read_to_string(directory.join(name)).ok();
    match read("cpu.max") {
        Some(text) => {
            let (quota, period) = text.trim().split_once(' ')?;
            cpus(quota, period)
        }
        None => cpus(&read("cpu.cfs_quota_us")?, &read("cpu.cfs_period_us")?),
    }
}

/// "max" and -1 mean no limit, and are no positive numbers.
fn cpus(quota_us: &str, period_us: &str) -> Option<f64> {
    let (quota, period) = (
        quota_us.trim().parse::<f64>().ok()?,
        period_us.trim().parse::<f64>().ok()?,
    );
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 0:21 / /proc rw - proc proc rw
30 23 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate
33 23 0:30 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw master:12 - cgroup cgroup rw,cpu,cpuacct
34 23 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";

    #[test]
    fn group_directories_are_found_in_both_versions_and_in_containers() {
        let found = controller_directories(
            "4:cpu,cpuacct:/docker/abc/inner\n3:memory:/m\n0::/user/one\n",
            MOUNTS,
        );
        let directories: Vec<_> = found
            .iter()
            .map(|group| group.directory.to_str().unwrap())
            .collect();
        assert_eq!(
            directories,
            [
                "/sys/fs/cgroup/unified/user/one",
                "/sys/fs/cgroup/cpu,cpuacct/inner"
            ]
        );
        assert_eq!(controller_directories("", MOUNTS), []);
    }

    #[test]
    fn quotas_are_cpus_and_no_limit_is_none() {
        assert_eq!(cpus("150000", "100000\n"), Some(1.5));
        assert_eq!(cpus("max", "100000"), None);
        assert_eq!(cpus("-1", "100000"), None);
        assert_eq!(cpus("1", "0"), None);
    }

    #[test]
    fn this_machine_has_cpus() {
        assert!(available_cpus() >= 1);
        assert!(cgroup_cpus().is_none_or(|cpus| cpus > 0.0));
    }
}
