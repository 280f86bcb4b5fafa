"""Every check, and the mistakes in our manifests that it must notice."""

from collections.abc import Callable, Iterator

from tests.k8s.changes import BALANCER, GONE, POD, SERVE, VERIFY
from tests.k8s.checks import (
    jobs,
    names,
    network,
    quantities,
    references,
    selectors,
    serving,
    settings,
    workloads,
)
from tests.k8s.objects import Cluster

Check = Callable[[Cluster], Iterator[str]]

PREDICT = "Job/predict spec template spec"
TRAIN = "Job/train spec template spec"
GROUP = "LeaderWorkerSet/group spec leaderWorkerTemplate"
LEADER = f"{GROUP} leaderTemplate spec containers serve"
WORKER = f"{GROUP} workerTemplate spec containers serve"
NODES = f"{TRAIN} containers train env NODES"
URL = f"{PREDICT} containers predict args 0"
COMPONENT = "app.kubernetes.io/component"
LABEL = f"matchLabels {COMPONENT}"
SPREAD = f"{POD} topologySpreadConstraints 0 labelSelector"
AGAINST = {"matchLabels": {COMPONENT: "x"}}
APART = {"weight": 1, "podAffinityTerm": {"labelSelector": AGAINST}}
ANTI = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [APART]}}

# by check: where the mistake is, the value there, words of the problem
BROKEN: dict[Check, list[tuple[str, object, str]]] = {
    selectors.workloads_select_only_their_own_pods: [
        (f"Deployment/serve spec selector {LABEL}", GONE, "matches pods of Deployment/balancer"),
    ],
    selectors.selectors_match: [
        (f"Deployment/serve spec selector {LABEL}", "x", "spec.selector matches nothing"),
        (f"Service/serve spec selector {COMPONENT}", "x", "spec.selector matches nothing"),
        (f"PodDisruptionBudget/serve spec selector {LABEL}", "x", "spec.selector matches nothing"),
        (f"NetworkPolicy/serve spec podSelector {LABEL}", "x", "spec.podSelector matches nothing"),
        (f"NetworkPolicy/serve spec ingress 0 from 0 podSelector {LABEL}", "x", "spec.ingress[0]"),
        (f"NetworkPolicy/balancer spec egress 0 to 0 podSelector {LABEL}", "x", "spec.egress[0]"),
        (f"ServiceMonitor/serve spec selector {LABEL}", "x", "spec.selector matches nothing"),
        (f"{SPREAD} {LABEL}", "x", "topologySpreadConstraints[0].labelSelector matches nothing"),
        (SPREAD, GONE, "topologySpreadConstraints[0].labelSelector matches nothing"),
        (f"{POD} affinity", ANTI, "podAffinityTerm.labelSelector matches nothing"),
    ],
    selectors.pods_are_spread_among_their_own: [
        (f"{SPREAD} {LABEL}", "balancer", "Deployment/serve: [0][0] does not count its own pods"),
        (f"{POD} affinity", ANTI, "does not count its own pods"),
    ],
    selectors.opened_ports_are_there: [
        (f"Service/serve spec selector {COMPONENT}", GONE, "port http: not in Job/predict"),
        ("Service/mergeline spec ports http targetPort", "https", "port https: not in"),
        ("NetworkPolicy/serve spec ingress 0 ports 0 port", 8001, "port 8001: not in"),
    ],
    selectors.scraped_ports_are_there: [
        ("ServiceMonitor/serve spec endpoints 0 port", "metrics", "port metrics: not in Service"),
    ],
    quantities.quantities_are_well_formed: [
        (f"{SERVE} resources limits memory", "24GB", "memory: '24GB' is no quantity"),
        (f"{VERIFY} resources requests cpu", "-1", "cpu: '-1' is no quantity"),
        (f"{SERVE} resources requests memory", "512m", "memory: '512m' is no quantity"),
        (f"{POD} volumes shm emptyDir sizeLimit", "2 Gi", "sizeLimit: '2 Gi' is no quantity"),
        ("PersistentVolumeClaim/models spec resources requests storage", "100Gib", "'100Gib' is"),
    ],
    quantities.requests_fit_limits: [
        (f"{WORKER} resources requests nvidia.com/gpu", "4", "4 does not fit the limit 8"),
        (f"{SERVE} resources requests memory", "100Gi", "100Gi does not fit the limit"),
        (f"{SERVE} resources requests nvidia.com/gpu", "2", "2 does not fit the limit 1"),
        (f"{SERVE} resources limits nvidia.com/gpu", GONE, "1 does not fit the limit None"),
    ],
    quantities.memory_volumes_fit_the_limit: [
        (f"{POD} volumes shm emptyDir sizeLimit", GONE, "no room beside nan bytes"),
        (f"{TRAIN} volumes shm emptyDir sizeLimit", "48Gi", "container train: no room beside"),
    ],
    references.mounts_fit_volumes: [
        (f"{SERVE} volumeMounts tmp name", "temp", "volumeMount temp names no volume"),
        (f"{VERIFY} volumeMounts models name", "model", "verify: volumeMount model names no"),
        (f"{SERVE} volumeMounts tmp", GONE, "volume tmp is mounted nowhere"),
        (f"{SERVE} volumeMounts tmp mountPath", "/dev/shm/", "two volumeMounts at /dev/shm"),
    ],
    references.references_exist: [
        (f"{SERVE} envFrom 0 configMapRef name", "x", "there is no ConfigMap/x"),
        (f"{POD} volumes models persistentVolumeClaim claimName", "x", "PersistentVolumeClaim/x"),
        (f"{POD} volumes keys secret secretName", "x", "there is no Secret/x"),
        (f"{POD} serviceAccountName", "x", "there is no ServiceAccount/x"),
        (f"{TRAIN} volumes recipe configMap name", "x", "there is no ConfigMap/x"),
        (f"{TRAIN} volumes recipe configMap items", [{"key": "x", "path": "x"}], "has no key x"),
        (f"{PREDICT} containers predict env MERGELINE_API_KEY valueFrom secretKeyRef name", "x",
         "there is no Secret/x"),
        (f"{TRAIN} subdomain", "x", "there is no Service/x"),
        ("ScaledObject/serve spec scaleTargetRef name", "x", "there is no Deployment/x"),
    ],
    references.pods_with_a_subdomain_have_a_headless_service: [
        ("Service/train spec clusterIP", GONE, "names its pods, but is not headless"),
    ],
    workloads.rollouts_can_move: [
        ("Deployment/serve spec strategy rollingUpdate", {"maxSurge": 0, "maxUnavailable": "0%"},
         "maxSurge and maxUnavailable are both 0"),
        ("Deployment/serve spec strategy rollingUpdate maxUnavailable", "half", "'half' is no num"),
        ("LeaderWorkerSet/group spec rolloutStrategy rollingUpdateConfiguration maxUnavailable", 0,
         "maxSurge and maxUnavailable are both 0"),
    ],
    workloads.gpu_rollouts_need_no_spare_gpu: [
        ("Deployment/serve spec strategy rollingUpdate", GONE, "maxSurge: 25% needs GPUs"),
    ],
    workloads.handlers_are_single: [
        (f"{SERVE} readinessProbe tcpSocket", {"port": 8000}, "not ['httpGet', 'tcpSocket']"),
        (f"{SERVE} livenessProbe httpGet", GONE, "livenessProbe: one handler is needed, not []"),
        (f"{SERVE} lifecycle preStop httpGet", {"port": 8000}, "preStop: one handler is needed"),
        (f"{SERVE} startupProbe httpGet port", "https", "the container has no port {'https'}"),
        (f"{SERVE} livenessProbe successThreshold", 2, "livenessProbe: successThreshold must be 1"),
    ],
    workloads.listeners_have_probes: [
        (f"{BALANCER} containers balancer readinessProbe", GONE, "ports, but no readinessProbe"),
    ],
    workloads.budgets_let_a_node_drain: [
        ("PodDisruptionBudget/serve spec maxUnavailable", 0, "lets no pod go"),
        ("PodDisruptionBudget/serve spec maxUnavailable", GONE, "lets no pod go"),
        ("PodDisruptionBudget/balancer spec", {"minAvailable": 2}, "lets no pod go"),
        ("PodDisruptionBudget/serve spec", {"minAvailable": 2}, "lets no pod go"),
    ],
    workloads.scaled_workloads_leave_replicas_out: [
        ("Deployment/serve spec replicas", 2, "spec.replicas, but ScaledObject/serve sets them"),
    ],
    workloads.pods_are_closed: [
        (f"{POD} enableServiceLinks", GONE, "spec.enableServiceLinks must be false"),
        (f"{POD} volumes models hostPath", {"path": "/models"}, "hostPath opens the node"),
        (f"{POD} securityContext runAsNonRoot", GONE, "runAsNonRoot must be true"),
        (f"{VERIFY} securityContext runAsUser", 0, "verify: securityContext.runAsUser is for the"),
        (f"{SERVE} securityContext seccompProfile", {"type": "Unconfined"}, "seccompProfile is"),
    ],
    jobs.jobs_are_consistent: [
        (f"{PREDICT} restartPolicy", "Always", "restartPolicy must be Never"),
        (f"{PREDICT} restartPolicy", "OnFailure", "restartPolicy must be Never"),
        ("Job/predict spec completions", GONE, "an Indexed Job needs completions"),
        ("Job/predict spec parallelism", 4, "parallelism is above completions"),
        ("Job/predict spec completionMode", "NonIndexed", "is for Indexed Jobs only"),
        ("Job/train spec maxFailedIndexes", 1, "maxFailedIndexes needs backoffLimitPerIndex"),
    ],
    jobs.variables_are_defined: [
        (f"{NODES} name", "NODE_COUNT", "args: $(NODES) is not defined"),
        (f"{WORKER} env SERVICE_NODE_RANK value", "$(X)", "env: $(X) is not defined before"),
        (f"{NODES} value", "$(JOB_COMPLETION_INDEX)", "INDEX) is not defined before NODES"),
    ],
    jobs.indexed_jobs_agree: [
        ("Job/predict spec completions", 4, "/3, but spec.completions is 4"),
        ("Job/merge spec template spec containers merge args 5", GONE, "takes parts [0, 1] of Job"),
        (f"{NODES} value", "4", "--nnodes=4, but spec.completions is 2"),
        (f"{TRAIN} containers train env PROCESSES value", "8", "=8, but a pod's GPUs are 1"),
    ],
    names.names_are_valid: [
        ("Deployment/serve metadata name", "Serve", "'Serve' is no valid name"),
        ("Service/serve metadata name", "2-serve", "'2-serve' is no valid name"),
        (f"{SERVE} name", "serve_1", "'serve_1' is no valid name"),
        (f"{POD} volumes tmp name", "tmp.dir", "'tmp.dir' is no valid name"),
        (f"{SERVE} ports http name", "http-of-the-service", "'http-of-the-service' is no valid"),
        (f"{NODES} name", "NO-DES", "'NO-DES' is no valid name"),
        ("ConfigMap/serve-settings data a/b", "c", "'a/b' is no valid key"),
    ],
    names.names_are_unique: [
        (f"{VERIFY} name", "serve", "containers: 'serve' is there twice"),
        (f"{NODES} name", "PROCESSES", "env: 'PROCESSES' is there twice"),
    ],
    names.labels_are_valid: [
        (f"Deployment/serve metadata labels {COMPONENT}", "serve!", "'serve!' is no valid value"),
        ("Deployment/serve metadata labels a/b/c", "d", "'a/b/c' is no valid key"),
        ("Deployment/serve spec template metadata labels on", True, "True is no valid value"),
    ],
    names.objects_share_a_namespace: [
        ("Service/serve metadata namespace", GONE, "Service/serve is not in mergeline"),
    ],
    names.no_service_is_called_vllm: [
        ("Service/serve metadata name", "vllm", "pods would get VLLM_PORT"),
    ],
    network.calls_reach_their_service: [
        (URL, "--url=http://balancer:8080", "calls balancer:8080: there is no such Service"),
        (URL, "--url=http://mergeline:8000", "Service/mergeline has no such port"),
        (URL, "--url=http://serve:8000", "lets it out to Deployment/serve"),
        ("NetworkPolicy/predict spec egress 1", GONE, "calls mergeline:8080: no NetworkPolicy lets"
         " it ask the DNS"),
        ("NetworkPolicy/predict spec egress 0 ports 0 port", "web", "out to Deployment/balancer"),
        (f"NetworkPolicy/serve spec ingress 0 from 0 podSelector {LABEL}", "x",
         "calls serve:8000: no NetworkPolicy lets it in to Deployment/serve"),
        ("NetworkPolicy/balancer spec egress 0 ports 0 port", 8080,
         "calls serve:8000: no NetworkPolicy lets it out to Deployment/serve"),
        ("ConfigMap/balancer-settings data SERVE_HOST", "server.mergeline.svc.cluster.local",
         "Deployment/balancer calls server:8000: there is no such Service"),
    ],
    network.groups_may_talk: [
        ("NetworkPolicy/train spec ingress 0 ports", [{"port": 29500}], "lets it in to Job/train"),
        ("NetworkPolicy/train spec egress 0", GONE, "lets it out to Job/train"),
        ("NetworkPolicy/group spec egress 0", GONE, "out to LeaderWorkerSet/group worker"),
    ],
    network.balancers_know_every_replica: [
        ("ScaledObject/serve spec maxReplicaCount", 32, "32 is no room for 32 replicas and one"),
        ("ScaledObject/serve spec maxReplicaCount", GONE, "is no room for 100 replicas and one"),
    ],
    serving.pods_may_drain: [
        (f"{POD} terminationGracePeriodSeconds", 74, "74 is below 75: 5 of preStop, 60 of drain"),
        (f"{POD} terminationGracePeriodSeconds", GONE, "terminationGracePeriodSeconds 30 is below"),
        (f"{SERVE} lifecycle preStop exec command 1", "60", "60 of preStop"),
        (f"{SERVE} env", [{"name": "SERVICE_DRAIN_TIMEOUT_S", "value": "600"}], "600 of drain"),
        (f"{SERVE} lifecycle", GONE, "lifecycle.preStop must sleep some seconds"),
        (f"{SERVE} lifecycle preStop exec command", ["sh", "-c", "sleep 5"], "preStop must sleep"),
        (f"{GROUP} workerTemplate spec terminationGracePeriodSeconds", 60,
         "group worker: terminationGracePeriodSeconds 60 is below 70"),
        (f"{BALANCER} terminationGracePeriodSeconds", 60, "65 of drain"),
    ],
    serving.serving_ports_agree: [
        (f"{SERVE} ports http containerPort", 8001, "SERVICE_PORT is 8000, but"),
        (f"{SERVE} env", [{"name": "SERVICE_PORT", "value": "9000"}], "SERVICE_PORT is 9000, but"),
        (f"{SERVE} readinessProbe httpGet port", 8001, "readinessProbe has 8001"),
        ("Service/serve spec ports http targetPort", 8001, "Service/serve http has 8001"),
        (f"{SERVE} env", [{"name": "SERVICE_HOST", "value": "127.0.0.1"}], "hears no other pod"),
    ],
    serving.serving_probes_fit: [
        (f"{SERVE} livenessProbe httpGet path", "/readyz", "livenessProbe: does not ask /livez"),
        (f"{SERVE} startupProbe failureThreshold", 12, "60 s are short to load"),
    ],
    serving.models_are_mounted_read_only: [
        (f"{SERVE} volumeMounts models mountPath", "/model", "holds SERVICE_MODEL /models/v1"),
        (f"{VERIFY} volumeMounts models readOnly", GONE, "verify: no readOnly volumeMount"),
    ],
    serving.serving_pods_can_write: [
        (f"{SERVE} volumeMounts tmp mountPath", "/scratch", "nothing to write to at /tmp"),
        (f"{SERVE} volumeMounts tmp readOnly", True, "nothing to write to at /tmp"),
        (f"{POD} volumes shm emptyDir medium", GONE, "/dev/shm is not memory"),
    ],
    serving.devices_fit_the_settings: [
        (f"{SERVE} resources limits nvidia.com/gpu", "2", "_PARALLEL_SIZE is 1, there are 2"),
        (f"{GROUP} size", 4, "group worker: SERVICE_NODES is 2, there are 4"),
        (f"{WORKER} resources limits nvidia.com/gpu", "4", "_PARALLEL_SIZE is 16, there are 8"),
        (f"{SERVE} image", "mergeline-engine:cpu", "image mergeline-engine:cpu with 1 GPUs"),
    ],
    serving.setting_files_are_mounted: [
        (f"{SERVE} env", [{"name": "SERVICE_API_KEY_FILE", "value": "/x/keys"}], "FILE=/x/keys"),
    ],
    settings.settings_are_real: [
        ("ConfigMap/serve-settings data SERVICE_MAX_MODEL_LENGTH", "4096", "LENGTH is no setting"),
        ("ConfigMap/serve-settings data SERVICE_MAX_NUM_SEQS", "0", "=0: Input should be greater"),
        ("ConfigMap/serve-settings data SERVICE_MAX_NUM_SEQS", "", "=: Input should be a valid"),
        ("ConfigMap/serve-settings data SERVICE_ENGINE_ARGS", "a=1", "=a=1: Invalid JSON"),
        (f"{LEADER} env SERVICE_NODE_RANK name", "SERVICE_RANK", "SERVICE_RANK is no setting"),
        (f"{SERVE} env", [{"name": "SERVICE_TP", "value": "2"}], "SERVICE_TP is no setting"),
    ],
    settings.flags_are_real: [
        (f"{SERVE} args", ["--max-model-length=4096"], "--max-model-length is no flag"),
    ],
    settings.images_are_ours: [
        (f"{SERVE} image", "registry.example/vllm:v0.32.0", "vllm:v0.32.0 is none of ours"),
    ],
}  # fmt: skip
