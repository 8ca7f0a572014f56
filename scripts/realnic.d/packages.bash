# shellcheck shell=bash
# Kernels and newer versions of QEMU: resolved by apt, downloaded and unpacked into a cache, never installed.
#
# apt works on a directory of its own in the cache, with sources of its own, so that this machine's sources, lists and
# packages stay as they are. What is in the cache is used as it is, without a look at the network, until --refresh.
#
#   $CACHE/apt                       sources, lists
#   $CACHE/kernel-SUITE/boot, lib    a kernel, and the modules that a guest may want
#   $CACHE/qemu-SUITE/usr            QEMU with the libraries that this machine lacks
#   $CACHE/*/version                 what it is; there once all of it is

warn() { printf "%s: %s\n" "${0##*/}" "$*" >&2; }

SUITES=(bookworm bookworm-backports trixie-backports)
# Most of a kernel's modules: no guest has such hardware.
NOT_UNPACKED=('*/kernel/sound' '*/kernel/drivers/gpu' '*/kernel/drivers/media' '*/kernel/drivers/infiniband'
    '*/kernel/drivers/scsi' '*/kernel/drivers/staging' '*/kernel/drivers/net/wireless' '*/kernel/drivers/usb')

# mirror: where this machine gets Debian from.
mirror() {
    local uri
    # shellcheck disable=SC2016 # the name is apt's
    uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null |
        grep -v security | head -n 1) || true
    say "${uri:-http://deb.debian.org/debian/}"
}

# own_apt PROGRAM SUITE ARGUMENT...: apt-get or apt-cache on the directory in the cache, with SUITE's versions first.
own_apt() {
    local program=$1 suite=$2 directory=$CACHE/apt
    shift 2
    "$program" -o "Dir::Etc::SourceList=$directory/sources.list" -o Dir::Etc::SourceParts=- \
        -o "Dir::Etc::PreferencesParts=$directory/preferences" -o "Dir::State::Lists=$directory/lists" -o "Dir::Cache=$directory/cache" \
        -o "APT::Default-Release=$suite" -o APT::Sandbox::User=root "$@"
}

# refresh_lists: reads anew what the suites hold, once a run.
refresh_lists() {
    local directory=$CACHE/apt suite uri
    [[ -z ${LISTS_ARE_FRESH:-} ]] || return 0
    mkdir -p "$directory/preferences" "$directory/lists/partial" "$directory/cache/archives/partial"
    uri=$(mirror)
    for suite in "${SUITES[@]}"; do
        say "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main"
    done >"$directory/sources.list"
    own_apt apt-get bookworm -qq update || return 1
    LISTS_ARE_FRESH=yes
}

# is_cached DIRECTORY: whether it is complete and need not be fetched anew.
is_cached() { [[ -f $1/version && (-z ${REFRESH:-} || -n ${FETCHED[$1]:-}) ]]; }

declare -A FETCHED=()

# fetch_kernel SUITE: sets KERNEL to the directory of the suite's kernel; fails, with the reason on stderr, where it is
# not to be had.
fetch_kernel() {
    local suite=$1 package version parts
    KERNEL=$CACHE/kernel-$suite
    ! is_cached "$KERNEL" || return 0
    refresh_lists || return 1
    package=$(depends "$suite" linux-image-amd64 | grep -m 1 '^linux-image-[0-9]') || true
    [[ -n $package ]] || { warn "no suite $suite on the mirror" && return 1; }
    version=${package#linux-image-}
    # Since Linux 7 its modules, and the image itself, are in packages of their own.
    mapfile -t parts < <(depends "$suite" "$package" | grep -Fx -e "linux-modules-$version" \
        -e "linux-binary-$version" -e "linux-base-$version")
    rm -rf "$KERNEL"
    download "$suite" "$KERNEL/packages" "$package" "${parts[@]}" || return 1
    unpack "$KERNEL" "${NOT_UNPACKED[@]/#/--exclude=}" || return 1
    # Debian 13 has its modules below /usr.
    [[ -d $KERNEL/lib ]] || ln -s usr/lib "$KERNEL/lib"
    if [[ ! -f $KERNEL/boot/vmlinuz-$version ]]; then
        mkdir -p "$KERNEL/boot"
        cp "$KERNEL/lib/modules/$version/vmlinuz" "$KERNEL/boot/vmlinuz-$version" || return 1
    fi
    depmod -b "$KERNEL" "$version" || return 1
    finish "$KERNEL" "$version"
}

# depends SUITE PACKAGE: the packages that it depends on.
depends() { own_apt apt-cache "$1" depends "$2" | awk '$1 == "Depends:" { print $2 }'; }

# fetch_qemu SUITE: sets QEMU to the command of the suite's QEMU, or of the one installed for "installed".
fetch_qemu() {
    local suite=$1 directory=$CACHE/qemu-$1 packages
    QEMU=(qemu-system-x86_64)
    [[ $suite != installed ]] || return 0
    QEMU=(env "LD_LIBRARY_PATH=$directory/usr/lib/x86_64-linux-gnu"
        "QEMU_MODULE_DIR=$directory/usr/lib/x86_64-linux-gnu/qemu" "$directory/usr/bin/qemu-system-x86_64"
        -L "$directory/usr/share/qemu" -L "$directory/usr/share/seabios" -L "$directory/usr/lib/ipxe/qemu")
    ! is_cached "$directory" || return 0
    refresh_lists || return 1
    # With all that apt would install with it here.
    mapfile -t packages < <(own_apt apt-get "$suite" -s --no-install-recommends install "qemu-system-x86/$suite" \
        "qemu-system-data/$suite" "qemu-system-common/$suite" | awk '$1 == "Inst" { print $2 }')
    ((${#packages[@]})) || { warn "no QEMU in $suite" && return 1; }
    rm -rf "$directory"
    download "$suite" "$directory/packages" "${packages[@]}" || return 1
    unpack "$directory" || return 1
    finish "$directory" "$("${QEMU[@]}" --version | head -n 1)"
}

# download SUITE DIRECTORY PACKAGE...
download() {
    local suite=$1 directory=$2
    shift 2
    mkdir -p "$directory"
    say "fetching $* of $suite" >&2
    (cd "$directory" && own_apt apt-get "$suite" -qq download "$@") ||
        { warn "cannot download $* of $suite" && return 1; }
}

# unpack DIRECTORY [TAR-OPTION...]: what was downloaded there, and deletes it.
unpack() {
    local directory=$1 package
    shift
    for package in "$directory"/packages/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -x -C "$directory" "$@" || return 1
    done
    rm -rf "$directory/packages"
}

# finish DIRECTORY VERSION
finish() {
    say "$2" >"$1/version"
    FETCHED[$1]=yes
}
