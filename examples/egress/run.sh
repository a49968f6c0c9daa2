#!/usr/bin/env bash
# A sidecar, a zone egress and a service outside, each in a network namespace of its own:
#
#     app 10.66.1.1 --- 10.66.1.2 egress 10.66.2.1 --- 10.66.2.2 outside
#
# Both proxies read zone.yaml, and egress.yaml, which tells the sidecar where the egress is.
# The application has no route to the outside: what reaches it went through the egress, by mTLS.
#
# Network namespaces need root. Without it, or with --loopback, all three are on addresses of the loopback (127.66.x.x):
# the same proxies and permissions, but nothing keeps the application from going to the outside by itself.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
koguma=${KOGUMA:-koguma}
python=${PYTHON:-python3}
work=$(mktemp -d)
prefix=koguma-$$
pids=()
net=10.66
own_ports=()
if ((EUID != 0)) || [[ ${1:-} == --loopback ]]; then
    net=127.66
    own_ports=(--admin-port 0 --dns-port 0) # in one network there is one of each
fi

clean_up() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    if [[ $net == 10.66 ]]; then
        for space in app egress outside; do ip netns delete "$prefix-$space" 2>/dev/null || true; done
    fi
    rm -rf "$work"
}
trap clean_up EXIT

enter() { # space, command: in the place of this shell, so that a process in the background is the command itself
    if [[ $net == 10.66 ]]; then exec ip netns exec "$prefix-$1" "${@:2}"; else exec "${@:2}"; fi
}

in_space() { (enter "$@"); }

link() { # space, address, other space, its address
    ip link add out netns "$prefix-$1" type veth peer name in netns "$prefix-$3"
    in_space "$1" ip address add "$2/24" dev out
    in_space "$3" ip address add "$4/24" dev in
    in_space "$1" ip link set out up
    in_space "$3" ip link set in up
}

start() { # space, proxy type, Dataplane
    enter "$1" $koguma run --proxy-type "$2" --dataplane-file "$work/$3" --resources "$work/zone.yaml" "$work/egress.yaml" \
        "${own_ports[@]}" --drain-time 1s >"$work/$1.out" 2>"$work/$1.log" &
    pids+=($!)
    for _ in $(seq 300); do
        grep -q '^koguma ready' "$work/$1.log" && return
        sleep 0.1
    done
    cat "$work/$1.log" >&2
    exit 1
}

for file in zone egress sidecar; do sed "s/10\.66\./$net./" "$here/$file.yaml" >"$work/$file.yaml"; done
if [[ $net == 10.66 ]]; then
    for space in app egress outside; do
        ip netns add "$prefix-$space"
        in_space "$space" ip link set lo up
    done
    link app 10.66.1.1 egress 10.66.1.2
    link egress 10.66.2.1 outside 10.66.2.2
fi

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=mesh \
    -addext keyUsage=critical,keyCertSign,cRLSign -keyout "$work/ca.key" -out "$work/ca.pem" 2>"$work/openssl.log"
MESH_CA=$(cat "$work/ca.pem") MESH_CA_KEY=$(cat "$work/ca.key")
export MESH_CA MESH_CA_KEY

mkdir "$work/site"
echo "greetings from outside" >"$work/site/index.html"
enter outside "$python" -m http.server --bind $net.2.2 --directory "$work/site" 8000 >"$work/outside.log" 2>&1 &
pids+=($!)
start egress egress egress.yaml
start app dataplane sidecar.yaml

ask() { in_space app curl -s --max-time 10 -o "$work/answer" -w '%{http_code}' "$@" || true; }

for _ in $(seq 100); do
    [[ $(ask http://127.0.0.1:10080/) == 200 ]] && break
    sleep 0.1
done
echo "through the egress: $(ask http://127.0.0.1:10080/) $(cat "$work/answer")"
echo "not permitted: $(ask http://127.0.0.1:10081/) $(cat "$work/answer")"
if [[ $net == 10.66 ]]; then echo "without the egress: $(ask http://10.66.2.2:8000/)"; fi
