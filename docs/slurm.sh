#!/bin/bash
# A training that outlives its time limit, preemption and lost nodes:
#
#     sbatch slurm.sh                       # reforge pretrain
#     sbatch slurm.sh finetune --set finetune.continued.steps=500
#
# Set partition, account and sizes for your cluster. The project folder must be on a disk that all
# nodes share. The layout may change from one submission to the next: it changes no bit.

#SBATCH --job-name=reforge
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=reforge-%j.log
# Five minutes before the time is up every rank hears of it and saves.
#SBATCH --signal=USR1@300

# Ranks that saved may leave one after another: give them a minute instead of ending them with
# the first, so that their exit code is the one that counts.
srun --kill-on-bad-exit=0 --wait=60 reforge "${@:-pretrain}"
code=$?

# 75: asked to end, and saved. 69: a rank was missing; if it stays so, somebody should look.
if [ $code -eq 75 ] || { [ $code -eq 69 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 5 ]; }; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
