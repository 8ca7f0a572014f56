# shellcheck shell=bash
# The tests of AF_XDP ports, with the guest's kernel: what they find depends on it. Up to Linux 6.12 a port can run the
# receive side of a veth by itself, which newer kernels do not let it.

tests_pass() {
    "$JOB_BINARIES/af_xdp" --test-threads 1 >"$OUT/tests.log" 2>&1 || fail "$(grep -m 1 -A 1 panicked "$OUT/tests.log")"
    tail -n 2 "$OUT/tests.log"
}

check ports "on Linux $(uname -r)" tests_pass
