#!/usr/bin/env bash
# Step 7, with dynamic networking:
#   bash run_dist_online_train.sh WORKER_NUM SCHED_HOST SCHED_PORT LOCAL_HOST_IP [-- flags of online_train.py]
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec python -m src.ranks.launch network "$@"
