# foreign.sh ARCH PACKAGE...: `make build` for another processor, in a Debian root that qemu-user runs.
#
# The root lies in .build/ARCH/root and is kept. It has the packages, and this folder as /source.
set -e
arch=$1
shift
case $arch in
aarch64) debian=arm64 ;;
x86_64) debian=amd64 ;;
*) echo "ARCH=$arch: expected x86_64 or aarch64" >&2 && exit 2 ;;
esac
[ "$(id -u)" = 0 ] || { echo "ARCH=$arch: chroot is root's alone. Use sudo make" >&2 && exit 2; }

for tool in mmdebstrap arch-test "qemu-$arch-static" update-binfmts; do
    command -v $tool >/dev/null && continue
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends mmdebstrap arch-test qemu-user-static binfmt-support
done
# systemd does this where there is one.
arch-test $debian >/dev/null 2>&1 || {
    mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
    update-binfmts --enable "qemu-$arch"
}

root=.build/$arch/root
if [ ! -e $root/source ]; then
    rm -rf $root $root.new
    mkdir -p .build/$arch
    packages=$(echo make "$@" | tr ' ' ,)
    mmdebstrap --quiet --architectures=$debian --variant=minbase --include="$packages" bookworm $root.new
    mkdir $root.new/source
    mv $root.new $root
fi
exec unshare --mount sh -ec '
    mount -t proc none "$0/proc"
    mount --rbind /dev "$0/dev"
    mkdir -p "$0/etc/ssl/certs"
    mount --bind /etc/ssl/certs "$0/etc/ssl/certs"
    mount --bind . "$0/source"
    exec env -u MAKEFLAGS -u MAKELEVEL chroot "$0" make --directory /source build' $root
