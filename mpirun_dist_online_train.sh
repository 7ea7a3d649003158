#!/usr/bin/env bash
# Step 7, under MPI:  bash mpirun_dist_online_train.sh RANK_SIZE LOCAL_HOST_IP [-- flags of online_train.py]
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec python -m src.ranks.launch mpirun "$@"
