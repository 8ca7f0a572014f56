# shellcheck shell=bash
# Puts cargo on the path where it is installed but not on it: under sudo it is the calling user's.
if ! command -v cargo >/dev/null; then
    rust_home=$(getent passwd "${SUDO_USER:-$(id -un)}" | cut -d : -f 6)
    export CARGO_HOME=${CARGO_HOME:-$rust_home/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$rust_home/.rustup}
    export PATH=$PATH:$CARGO_HOME/bin
    unset rust_home
fi
