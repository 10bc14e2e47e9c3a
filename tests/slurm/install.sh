#!/bin/sh
# SLURM's daemons and munge from the packages of Debian or Ubuntu; nothing is started. Does nothing where they are.
set -eu
PATH=$PATH:/usr/sbin

is_there() {
    for program in munged slurmctld slurmd sbatch; do
        command -v "$program" > /dev/null || return 1
    done
}

if is_there; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "tests/slurm: needs root and apt-get to install SLURM; its tests are left out" >&2
    exit 0
fi
# apt starts what it installs unless this file says no.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge > /dev/null
is_there
