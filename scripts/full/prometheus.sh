#!/usr/bin/env bash
# A real Prometheus: the alerts pass promtool's check and their tests, and it scrapes a node made here and answers what
# the node's uplinks, certificate and deliveries are. Needs Debian's package prometheus; no root.
set -euo pipefail
. "$(dirname "$0")/node.bash"

need promtool prometheus curl python3
need_programs

rules=$root/packaging/prometheus
say promtool check rules "$rules/tram.rules.yml"
say promtool test rules "$rules/tram.rules.test.yml"

# port: a free TCP port of this machine.
port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

http=127.0.0.1:$(port)
node=$scratch/central
say "$bin/tramd" --dir "$node" init --zone tram.test --name central --http "$http"
start "$node"
expect 0 "$bin/tram" --dir "$node" status
for path in livez readyz; do
    [ "$(curl -sS --max-time 10 "http://$http/$path")" = ok ] || fail "/$path does not say ok"
done
[ "$(curl -sS -o /dev/null -w '%{http_code}' -H 'Host: evil.example' "http://$http/metrics")" = 421 ] ||
    fail "a foreign Host is answered"
head -c 100000 /dev/urandom >"$scratch/document"
expect 0 "$bin/tram" --dir "$node" send --to vanban@central --wait arrived --timeout 20s "$scratch/document"

prometheus=127.0.0.1:$(port)
cat >"$scratch/prometheus.yml" <<END
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [ "$rules/tram.rules.yml" ]
scrape_configs:
  - job_name: tram
    static_configs: [ { targets: [ "$http" ] } ]
END
say promtool check config "$scratch/prometheus.yml"
printf '+ prometheus --web.listen-address=%s &\n' "$prometheus"
prometheus --config.file="$scratch/prometheus.yml" --storage.tsdb.path="$scratch/tsdb" \
    --web.listen-address="$prometheus" >"$scratch/prometheus.log" 2>&1 &
nodes+=($!)

# answers QUERY VALUE: waits until Prometheus gives that for the query.
answers() {
    local got deadline=$((SECONDS + 60))
    while [ "$SECONDS" -lt "$deadline" ]; do
        got=$(promtool query instant "http://$prometheus" "$1" 2>/dev/null) || got="no answer"
        case $got in
            *"=> $2 @"*) printf '%s is %s\n' "$1" "$2"; return ;;
        esac
        sleep 0.2
    done
    fail "$1 is not $2: $got"
}
answers 'up{job="tram"}' 1
answers 'tram_node_info{node="central",role="central",zone="tram.test"}' 1
answers 'tram_receipts_total{outcome="arrived"}' 1
answers 'sum(tram_delivery_seconds_count{state="arrived"})' 1
answers '(tram_cert_not_after_seconds{cert="node"} - time()) > bool (80 * 86400)' 1
answers 'count(tram_errors_total)' 22

# Every rule has been evaluated against what the node gives, without an error.
health() {
    curl -sS --max-time 10 "http://$prometheus/api/v1/rules" | python3 -c '
import json, sys
print(*sorted({r["health"] for g in json.load(sys.stdin)["data"]["groups"] for r in g["rules"]}))'
}
deadline=$((SECONDS + 60))
until [ "$(health)" = ok ]; do
    [ "$SECONDS" -lt "$deadline" ] || fail "not every rule is evaluated: $(health)"
    sleep 0.2
done
# And every query of the dashboard is one.
say python3 - "http://$prometheus" "$root/packaging/grafana/tram.json" <<'END'
import json, sys, urllib.parse, urllib.request

address, dashboard = sys.argv[1:]
queries = [target["expr"] for panel in json.load(open(dashboard))["panels"] for target in panel.get("targets", [])]
for query in queries:
    for name, value in [("$job", ".*"), ("$instance", ".*"), ("$__rate_interval", "1m")]:
        query = query.replace(name, value)
    url = f"{address}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    # What is not PromQL is answered with 400, which is an exception.
    assert json.load(urllib.request.urlopen(url, timeout=10))["status"] == "success", query
print(len(queries), "queries of the dashboard are understood")
assert len(queries) > 20
END
echo "Prometheus scrapes a node and evaluates its alerts"
