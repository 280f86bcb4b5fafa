"""All checks of rendered manifests. Each returns its problems, an object and a field in each."""

from collections.abc import Callable, Collection

from tests.k8s.checks import (
    jobs,
    names,
    network,
    quantities,
    references,
    security,
    selectors,
    serving,
    settings,
    workloads,
)
from tests.k8s.objects import Objects

# what the user brings
EXTERNAL = frozenset({("Secret", "mergeline-keys")})

ALONE: tuple[Callable[[Objects], list[str]], ...] = (
    quantities.quantities_are_well_formed,
    quantities.requests_fit_limits,
    quantities.memory_volumes_fit_the_limit,
    references.mounts_name_volumes,
    workloads.rollouts_can_move,
    workloads.gpu_rollouts_need_no_spare_gpu,
    workloads.handlers_are_single,
    workloads.listeners_have_probes,
    jobs.jobs_are_consistent,
    names.names_are_valid,
    names.names_are_unique,
    names.labels_are_valid,
    names.no_service_is_called_vllm,
    security.pods_are_closed,
    security.containers_are_confined,
    serving.balancers_may_drain,
    serving.serving_probes_fit,
    serving.serving_pods_can_write,
    settings.settings_are_real,
    settings.flags_are_real,
    settings.images_are_ours,
)

# these look at what runs already, too
BESIDE: tuple[Callable[[Objects, Objects], list[str]], ...] = (
    selectors.workloads_select_their_own_pods,
    selectors.services_select_pods_that_listen,
    selectors.budgets_and_policies_select_pods,
    selectors.monitors_select_services,
    selectors.placement_selects_pods,
    references.subdomains_are_headless,
    workloads.budgets_let_a_node_drain,
    workloads.scaled_workloads_leave_replicas_out,
    jobs.variables_are_defined,
    jobs.indexed_jobs_agree,
    serving.serving_pods_may_drain,
    serving.serving_ports_agree,
    serving.models_are_mounted_read_only,
    serving.devices_fit_the_settings,
    settings.setting_files_are_mounted,
    network.calls_reach_their_service,
    network.groups_may_talk,
    network.balancers_know_every_replica,
)


def problems(
    objects: Objects, known: Objects = (), external: Collection[tuple[str, str]] = EXTERNAL
) -> list[str]:
    """What is wrong with these objects; `known`: those that they are applied on top of."""
    found = [problem for check in ALONE for problem in check(objects)]
    found += [problem for check in BESIDE for problem in check(objects, known)]
    found += references.references_exist(objects, known, external)
    return found
