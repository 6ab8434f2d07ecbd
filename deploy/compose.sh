#!/bin/sh
# The compose deployment: up | restore | down | logs. `make` calls it.
#
# up       makes missing secrets, builds, starts, and ends 0 once all nodes can serve; when anything
#          fails, it shows why and removes what it started.
# restore  is up with RECOLLECT_RESTORE, for nodes that have no volumes.
# down     removes containers and network; the volumes too, Postgres' among them, with VOLUMES=1.
set -eu
cd "$(dirname "$0")/.."

READY_S=120
secrets="RECOLLECT_API_KEY RECOLLECT_PEER_SECRET POSTGRES_PASSWORD"
project=${COMPOSE_PROJECT_NAME:-recollect}

fail() {
    echo "$*" >&2
    exit 1
}

compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose -p "$project" -f docker-compose.cluster.yml "$@"
    else
        docker-compose -p "$project" -f docker-compose.cluster.yml "$@"
    fi
}

container() { # of a service
    docker ps --quiet --all \
        --filter "label=com.docker.compose.project=$project" \
        --filter "label=com.docker.compose.service=$1"
}

is_in_environment() {
    [ -n "$(printenv "$1" || true)" ]
}

is_in_file() {
    grep -qs "^$1=." .env
}

# An empty variable would hide the file's value from Compose.
forget_empty() {
    for name in $secrets; do
        is_in_environment "$name" || unset "$name"
    done
}

# 256 random bits each; what is in the environment wins over the file, and is not written to it.
make_secrets() {
    umask 077
    if [ -s .env ] && [ -n "$(tail -c 1 .env)" ]; then
        echo >>.env
    fi
    for name in $secrets; do
        if ! is_in_environment "$name" && ! is_in_file "$name"; then
            echo "$name=$(od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n')" >>.env
            echo "made $name, in .env"
        fi
    done
    [ ! -e .env ] || chmod 600 .env
}

# Compose reads the whole file even where no secret matters.
without_secrets() {
    for name in $secrets; do
        is_in_environment "$name" || is_in_file "$name" || export "$name=unused"
    done
}

is_healthy() { # a service
    [ "$(docker inspect --format '{{.State.Health.Status}}' "$(container "$1")")" = healthy ]
}

can_serve() { # a node; the command asks /readyz with the key that the container has
    said=$(docker exec "$(container "$1")" recollect status 2>&1)
}

# A node that makes its shards from a checkpoint may take as long as it likes, while it gets on.
heed_progress() {
    case $said in
        "$before") ;;
        *"restoring shard"*)
            before=$said
            deadline=$(($(date +%s) + READY_S))
            echo "$1: ${said#Error: }"
            ;;
    esac
}

await_ready() {
    deadline=$(($(date +%s) + READY_S))
    said='' before=''
    for service in node1 node2 node3 postgres; do
        until is_healthy "$service" && { [ "$service" = postgres ] || can_serve "$service"; }; do
            heed_progress "$service"
            [ "$(date +%s)" -lt "$deadline" ] || fail "$service is not ready after $READY_S s: $said"
            sleep 0.5
        done
    done
}

give_up() {
    status=$?
    trap - EXIT INT TERM HUP
    [ "$status" -ne 0 ] || exit 0
    compose logs --tail=20 >&2 || true
    echo "make up failed; removing what it started" >&2
    compose down --remove-orphans >/dev/null 2>&1 || true
    exit "$status"
}

up() {
    docker info >/dev/null 2>&1 || fail "no Docker engine answers: is it installed, running, and yours to use?"
    compose version >/dev/null 2>&1 || fail "Docker Compose is not installed"
    make_secrets
    trap give_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    compose build node1
    compose up --detach --no-build --remove-orphans
    await_ready
    docker exec "$(container node1)" recollect nodes
    echo "Ready"
}

restore() {
    for node in node1 node2 node3; do
        volume=$(docker volume ls --quiet \
            --filter "label=com.docker.compose.project=$project" \
            --filter "label=com.docker.compose.volume=$node")
        [ -z "$volume" ] || fail "the volume $volume exists, and only new nodes begin with a checkpoint.
If nothing in it is needed any more: docker volume rm ${project}_node1 ${project}_node2 ${project}_node3
A restore that was begun goes on with: RECOLLECT_RESTORE=latest make up"
    done
    if ! is_in_environment RECOLLECT_RESTORE && ! is_in_file RECOLLECT_RESTORE; then
        export RECOLLECT_RESTORE=latest
    fi
    up
}

down() {
    without_secrets
    if [ "${VOLUMES:-}" = 1 ]; then
        compose down --remove-orphans --volumes
    else
        compose down --remove-orphans
    fi
}

logs() {
    without_secrets
    if [ -t 1 ]; then
        compose logs --tail=100 --follow
    else
        compose logs --tail=100
    fi
}

forget_empty
case "${1:-}" in
    up | restore | down | logs) "$1" ;;
    *) fail "usage: $0 up | restore | down | logs" ;;
esac
