"""What oklog/run and swift-service-lifecycle test of themselves, and where we test it.

Theirs on the left, ours on the right (without its ``test_``), or why it has no meaning here.
"""

import re
from pathlib import Path

import pytest

# group_test.go and actors_test.go.
OKLOG = {
    "TestZero": "rule_01_an_empty_group_returns_at_once",
    "TestOne": "rule_11_every_failure_the_causes_first",
    "TestMany": "rule_03_the_first_failure_stops_all",
    "TestNilInterrupt": "rule_11_two_failures_at_once",
    "TestContextHandler": "rule_13_cancelled_from_outside_it_stops_hard_at_once",
    "TestSignalError": "rule_03_a_signal_is_the_cause",
}

# ServiceGroupTests. Its services are stopped one by one, the last first; ours all at once but for
# ``needs``: so a chain in which each needs the one before it. It can end a group by cancelling it;
# ours always interrupts first, and cancels when the grace is over.
SWIFT_GROUP = {
    "Run_whenAlreadyRunning": "rule_01_a_second_run_is_an_error",
    "Run_whenAlreadyFinished": "rule_01_a_second_run_is_an_error",
    "Run_whenNoService_andNoSignal": "rule_01_an_empty_group_returns_at_once",
    "Run_whenNoSignal": "rule_13_cancelled_from_outside_it_stops_hard_at_once",
    "whenRun_ShutdownGracefully": "rule_03_a_signal_is_the_cause",
    "Run_whenServiceExitsEarly": "rule_03_the_first_return_stops_all",
    ". andIgnore": "rule_12_all_ignore_and_it_is_an_errgroup",
    ". andShutdownGracefully": "rule_05_an_early_exit_in_the_middle_stops_the_rest_in_order",
    ". andShutdownGracefully_andThenCancels": "rule_05_a_second_exit_changes_nothing",
    ". andOtherRunningService": "rule_03_the_first_return_stops_all",
    "Run_whenServiceThrows": "rule_03_the_first_failure_stops_all",
    "Throws. andIgnore": "rule_12_an_ignored_failure_stops_nobody",
    "Throws. andShutdownGracefully": "rule_05_a_failure_in_the_middle_stops_the_rest_in_order",
    "Throws. andShutdownGracefully_andOther...Throws": "rule_11_every_failure_the_causes_first",
    "CancellationSignal": "rule_08_grace_0_is_at_once",
    ". afterGracefulShutdownSignal": "rule_17_a_second_signal_cancels_hard",
    "GracefulShutdownOrdering": "rule_05_they_stop_in_order",
    ". whenServiceThrows": "rule_05_a_failure_while_stopping_keeps_the_order",
    ". whenServiceThrows_and...Shutsdown": "rule_05_a_failure_while_stopping_keeps_the_order",
    ". whenServiceExits": "rule_05_an_exit_out_of_turn_keeps_the_order",
    ". whenServiceExits_andIgnoringThrows": (
        "rule_05_a_failure_that_is_ignored_while_stopping_keeps_the_order"
    ),
    "NestedServiceLifecycle": "rule_15_a_nested_group_stops_in_its_turn",
    "TriggerGracefulShutdown": "rule_05_an_exit_out_of_turn_keeps_the_order",
    ". serviceThrows_inOrder_graceful...": "rule_05_a_failure_while_stopping_keeps_the_order",
    ". serviceThrows_inOrder_ignore": (
        "rule_05_a_failure_that_is_ignored_while_stopping_keeps_the_order"
    ),
    ". serviceThrows_outOfOrder_graceful...": "rule_05_a_failure_out_of_turn_keeps_the_order",
    ". serviceThrows_outOfOrder_ignore": "rule_05_a_failure_out_of_turn_keeps_the_order",
    ". whenNestedGroup": "rule_15_a_nested_group_keeps_its_own_order",
    "GracefulShutdownEscalation": "rule_08_the_groups_grace_bounds_the_whole_stop",
    ". whenNoCancellationEscalation": "rule_08_cleaning_up_after_the_cut_is_waited_for",
    "GracefulShutdownWithMaximumDuration": "rule_08_the_groups_grace_bounds_the_whole_stop",
    "CancellationEscalation": "rule_10_run_returns_when_all_is_over",
    # A group waits; the watchdog of run() ends the process.
    "(its last resort, a fatal error)": "rule_21_nobody_can_disarm_the_watchdog",
}

# ServiceGroupAddServiceTests.
SWIFT_ADD = {
    "AddService_whenNotRunning": "rule_02_all_run_at_the_same_time",
    "AddService_whenRunning": "rule_14_add_on_a_running_group",
    "AddService_whenShuttingDown": "rule_14_add_on_a_stopping_group_is_an_error",
    ". whenCancelling": "rule_14_add_right_after_stop_is_an_error",
    "Run_whenAddedServiceExitsEarly_andIgnore": "rule_12_an_ignored_return_stops_nobody",
    ". andShutdownGracefully": "rule_05_an_early_exit_in_the_middle_stops_the_rest_in_order",
    "Run_whenAddedServiceThrows": "rule_05_a_failure_in_the_middle_stops_the_rest_in_order",
    "GracefulShutdownOrdering_withAdded...": "rule_05_they_stop_in_order",
    ". whenAddedServiceExits": "rule_05_an_exit_out_of_turn_keeps_the_order",
}

# GracefulShutdownTests, AsyncCancelOnGracefulShutdownSequenceTests and ClosureServiceTests. No task
# is free of a nursery here, and every nursery raises; a bare async function is an actor.
SWIFT_INSIDE = {
    "WithGracefulShutdownHandler": "every_task_of_an_actor_sees_its_stop_and_no_other_actor_does",
    ". whenAlreadyShuttingDown": (
        "cancel_on_stop_entered_once_the_stop_has_begun_is_cancelled_at_its_first_checkpoint"
    ),
    ". whenNested": "every_task_of_an_actor_sees_its_stop_and_no_other_actor_does",
    ". cleansUpHandlerAfterScopeExit": (
        "rule_09_cancel_on_stop_leaves_alone_a_block_that_ended_before"
    ),
    "TaskShutdownGracefully": (
        "a_task_in_a_nursery_of_another_sees_the_stop_of_the_actor_that_started_it"
    ),
    "TaskGroup..., ThrowingTaskGroup...": (
        "every_task_of_an_actor_sees_its_stop_and_no_other_actor_does"
    ),
    "CancelWhenGracefulShutdown": "rule_09_busy_in_cancel_on_stop_is_finished_first",
    "ResumesCancelWhen...WithResult": (
        "cancel_on_stop_whose_block_ends_without_a_checkpoint_caught_nothing"
    ),
    "IsShuttingDownGracefully": "every_task_of_an_actor_sees_its_stop_and_no_other_actor_does",
    "WaitForGracefulShutdown": "every_task_of_an_actor_sees_its_stop_and_no_other_actor_does",
    ". WhenAlreadyShutdown": "who_asks_once_the_stop_has_begun_does_not_wait",
    ". Cancellation": "the_wait_for_the_stop_can_be_cancelled",
    "WithTaskCancellationOrGraceful... (both)": (
        "rule_09_a_hard_cancel_pierces_every_block_of_a_nest_in_every_task"
    ),
    "CancelWhen...SurvivesCancellation": ("rule_13_cancelled_it_waits_for_those_that_clean_up"),
    ". SurvivesErrorThrown": "an_error_passes_through_every_kind_of_block_as_it_is",
    "finishesWhenShutdown": "rule_09_cancel_on_stop_in_busy_is_cancelled_and_the_block_goes_on",
    "finishesBaseFinishes": "rule_09_cancel_on_stop_leaves_alone_a_block_that_ended_before",
    "runExecutesClosure, runPropagatesErrors": "rule_11_every_failure_the_causes_first",
}

# Not theirs any more, and so not here: the tests of its older API (LifecycleTests,
# ServiceLauncherTests, ServiceRunnerTests), which the above replaced. UnixSignalTests are about its
# signal source, where we have Trio's.

TESTS = frozenset(
    name
    for file in Path(__file__).parent.rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def test_(\w+)", file.read_text("utf-8"), re.MULTILINE)
)
TABLES = {"oklog": OKLOG, "group": SWIFT_GROUP, "add": SWIFT_ADD, "inside": SWIFT_INSIDE}


@pytest.mark.parametrize("table", TABLES)
def test_what_they_test_is_tested_here(table: str) -> None:
    missing = {theirs: ours for theirs, ours in TABLES[table].items() if ours not in TESTS}
    assert missing == {}
