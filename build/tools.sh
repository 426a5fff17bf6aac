# tools.sh PYTHON: succeed if this machine has what a build needs beside Python's packages.
set -e
for tool in gcc strip objdump; do command -v $tool >/dev/null; done
"$1" -c 'import ensurepip, ctypes, sysconfig
ctypes.CDLL(sysconfig.get_config_var("INSTSONAME"))' 2>/dev/null
trial=$(mktemp -d)
trap 'rm -rf "$trial"' EXIT
echo 'int main(void) { return 0; }' >"$trial/trial.c"
gcc -include zstd.h -static "$trial/trial.c" -lzstd -o "$trial/trial" 2>/dev/null
