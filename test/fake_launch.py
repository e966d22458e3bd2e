"""What our launch files use of `launch`, `launch_ros` and `ament_index_python`, executed.

No wheel carries those packages. The constructors here take the arguments that the classes have on
humble, jazzy and kilted alike, written down from their documentation, and no other: a misspelt
one, or one that a distribution lacks (`autostart` on humble), is a TypeError as it would be there.
Like the real thing, a group forgets its configurations when it ends, so that a handler that runs
later cannot read them, and a configuration that is not set is an error.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
import importlib.util
from pathlib import Path
import sys
from types import ModuleType, SimpleNamespace

import yaml

# substitutions and conditions --------------------------------------------------------------------


class LaunchConfiguration:
    def __init__(self, variable_name, *, default=None):
        self.name, self.default = variable_name, default

    def perform(self, context):
        context.read.add(self.name)
        if self.name in context.configurations:
            return context.configurations[self.name]
        assert self.default is not None, f'launch configuration {self.name!r} does not exist'
        return text(context, self.default)


class EnvironmentVariable:
    def __init__(self, name, *, default_value=None):
        self.name, self.default = name, default_value

    def perform(self, context):
        if self.name in context.environment:
            return context.environment[self.name]
        assert self.default is not None, f'environment variable {self.name!r} does not exist'
        return text(context, self.default)


def text(context, value):
    """Text, a substitution, or several of them, as one text."""
    if isinstance(value, str):
        return value
    if hasattr(value, 'perform'):
        return value.perform(context)
    assert isinstance(value, (list, tuple)), f'{value!r} is no substitution'
    return ''.join(text(context, part) for part in value)


class IfCondition:
    def __init__(self, predicate_expression):
        self.expression = predicate_expression

    def holds(self, context):
        words = {'true': True, '1': True, 'false': False, '0': False}
        return words[text(context, self.expression).strip().lower()]


class ParameterValue:
    def __init__(self, value, *, value_type=None):
        self.value, self.type = value, value_type

    def evaluate(self, context):
        found = text(context, self.value)
        found = found if self.type is str else yaml.safe_load(found)
        assert self.type is None or isinstance(found, self.type), f'{found!r} for {self.type}'
        return found


# events and their handlers -----------------------------------------------------------------------


@dataclass(frozen=True)
class ProcessStarted:
    action: object


@dataclass(frozen=True)
class ProcessExited:
    action: object


@dataclass(frozen=True)
class StateTransition:
    action: object
    start_state: str
    goal_state: str


class ChangeState:
    def __init__(self, *, lifecycle_node_matcher, transition_id):
        self.matcher, self.transition = lifecycle_node_matcher, transition_id


def matches_action(process_action):
    return lambda action: action is process_action


class OnProcessStart:
    def __init__(self, *, target_action=None, on_start, handle_once=False):
        self.target, self.entities, self.once = target_action, on_start, handle_once

    def matches(self, event):
        return isinstance(event, ProcessStarted) and self.target in (None, event.action)


class OnStateTransition:
    def __init__(
        self, *, entities, target_lifecycle_node=None, transition=None, start_state=None,
        goal_state=None, matcher=None, handle_once=False,
    ):  # fmt: skip
        assert transition is None
        assert matcher is None
        assert isinstance(target_lifecycle_node, LifecycleNode)
        self.wanted = (target_lifecycle_node, start_state, goal_state)
        self.entities, self.once = entities, handle_once

    def matches(self, event):
        if not isinstance(event, StateTransition):
            return False
        found = (event.action, event.start_state, event.goal_state)
        return all(w in (None, f) for w, f in zip(self.wanted, found, strict=True))


# actions -----------------------------------------------------------------------------------------


class Action:
    def __init__(self, *, condition=None):
        self.condition = condition

    def visit(self, context):
        if self.condition is None or self.condition.holds(context):
            return self.execute(context) or []
        return []


class LaunchDescription(Action):
    def __init__(self, initial_entities=None):
        super().__init__()
        self.entities = list(initial_entities or [])

    def execute(self, context):
        return self.entities


class DeclareLaunchArgument(Action):
    def __init__(self, name, *, default_value=None, description=None, choices=None, **kwargs):
        super().__init__(**kwargs)
        self.name, self.default, self.choices = name, default_value, choices
        self.description = description

    def execute(self, context):
        context.declared[self.name] = self
        if self.default is not None and self.name not in context.configurations:
            context.configurations[self.name] = text(context, self.default)
        value = context.configurations[self.name]
        assert self.choices is None or value in self.choices


class SetEnvironmentVariable(Action):
    def __init__(self, name, value, **kwargs):
        super().__init__(**kwargs)
        self.name, self.value = name, value

    def execute(self, context):
        context.environment[text(context, self.name)] = text(context, self.value)


class OpaqueFunction(Action):
    def __init__(self, *, function, args=None, kwargs=None, **left_over_kwargs):
        super().__init__(**left_over_kwargs)
        self.call = lambda context: function(context, *(args or []), **(kwargs or {}))

    def execute(self, context):
        return self.call(context)


class GroupAction(Action):
    def __init__(
        self, actions, *, scoped=True, forwarding=True, launch_configurations=None, **kwargs
    ):
        super().__init__(**kwargs)
        assert scoped
        assert forwarding
        assert not launch_configurations
        self.actions = actions

    def execute(self, context):
        outside = (dict(context.configurations), dict(context.environment))
        for action in self.actions:
            context.visit(action)
        context.configurations, context.environment = outside


class PythonLaunchDescriptionSource:
    def __init__(self, launch_file_path):
        assert isinstance(launch_file_path, str)
        self.path = launch_file_path


class IncludeLaunchDescription(Action):
    def __init__(self, launch_description_source, *, launch_arguments=None, **kwargs):
        super().__init__(**kwargs)
        self.source = launch_description_source
        self.arguments = list(launch_arguments or [])

    def execute(self, context):
        context.include(self.source.path, {k: text(context, v) for k, v in self.arguments})


class RegisterEventHandler(Action):
    def __init__(self, event_handler, **kwargs):
        super().__init__(**kwargs)
        self.handler = event_handler

    def execute(self, context):
        context.handlers.append(self.handler)


class UnregisterEventHandler(RegisterEventHandler):
    def execute(self, context):
        context.handlers.remove(self.handler)


class EmitEvent(Action):
    def __init__(self, *, event, **kwargs):
        super().__init__(**kwargs)
        self.event = event

    def execute(self, context):
        context.events.append(self.event)


class LogInfo(Action):
    def __init__(self, *, msg, **kwargs):
        super().__init__(**kwargs)
        self.message = msg

    def execute(self, context):
        context.log.append(text(context, self.message))


class Shutdown(Action):
    def __init__(self, *, reason='reason not given', **kwargs):
        super().__init__(**kwargs)
        self.reason = reason

    def execute(self, context):
        context.ended = context.ended or self.reason


class ExecuteProcess(Action):
    def __init__(
        self, *, cmd, prefix=None, name=None, cwd=None, env=None, additional_env=None,
        shell=False, sigterm_timeout='5', sigkill_timeout='5', emulate_tty=False, output='log',
        output_format='', cached_output=False, log_cmd=False, on_exit=None, respawn=False,
        respawn_delay=None, **kwargs,
    ):  # fmt: skip
        super().__init__(**kwargs)
        self.command, self.on_exit = cmd, on_exit

    def execute(self, context):
        self.started = SimpleNamespace(
            action=self,
            command=[text(context, part) for part in self.command],
            environment=dict(context.environment),
        )
        context.processes.append(self.started)
        context.events.append(ProcessStarted(self))


class Node(ExecuteProcess):
    def __init__(
        self, *, executable, package=None, name=None, namespace=None, exec_name=None,
        parameters=None, remappings=None, ros_arguments=None, arguments=None, **kwargs,
    ):  # fmt: skip
        assert 'cmd' not in kwargs
        super().__init__(cmd=[executable, *(arguments or [])], **kwargs)
        self.given = SimpleNamespace(
            package=package, name=name, namespace=namespace, parameters=parameters or [],
            remappings=remappings or [],
        )  # fmt: skip

    def execute(self, context):
        super().execute(context)
        given, started = self.given, self.started
        started.package = text(context, given.package)
        started.executable = started.command[0]
        started.name = text(context, given.name or '')
        started.namespace = text(context, given.namespace or '')
        started.remappings = {text(context, k): text(context, v) for k, v in given.remappings}
        started.files = [p for p in given.parameters if not isinstance(p, dict)]
        started.parameters = {
            k: v.evaluate(context) if isinstance(v, ParameterValue) else v
            for p in given.parameters
            if isinstance(p, dict)
            for k, v in p.items()
        }


class LifecycleNode(Node):
    def __init__(self, *, name, namespace, **kwargs):
        super().__init__(name=name, namespace=namespace, **kwargs)
        self.state = 'unconfigured'


# the run -----------------------------------------------------------------------------------------

CONFIGURE, ACTIVATE = 1, 3  # as in lifecycle_msgs/msg/Transition
_STEPS = {  # state before, while and after
    CONFIGURE: ('unconfigured', 'configuring', 'inactive'),
    ACTIVATE: ('inactive', 'activating', 'active'),
}


@dataclass
class Launch:
    """One `ros2 launch`, until nothing is left to happen or it was shut down.

    Args:
        share: of the package, which holds the folder of launch files.
        environment: of the shell.
        refusals: transition to the state that it leads to where the node refuses it.
    """

    share: Path
    environment: dict = field(default_factory=dict)
    refusals: dict = field(default_factory=dict)
    configurations: dict = field(default_factory=dict)
    declared: dict = field(default_factory=dict)
    read: set = field(default_factory=set)
    processes: list = field(default_factory=list)
    handlers: list = field(default_factory=list)
    events: deque = field(default_factory=deque)
    transitions: list = field(default_factory=list)
    log: list = field(default_factory=list)
    ended: str | None = None

    def run(self, name, /, **arguments):
        """Do what `ros2 launch sharp_ros NAME KEY:=VALUE ...` does."""
        self.configurations.update(arguments)
        self.include(str(self.share / 'launch' / name), {})
        assert arguments.keys() <= self.declared.keys()
        self.go_on()
        return self

    def include(self, path, arguments):
        spec = importlib.util.spec_from_file_location('launch_file', path)
        module = importlib.util.module_from_spec(spec)
        previous = {name: sys.modules.get(name) for name in self._modules()}
        sys.modules.update(self._modules())
        try:
            spec.loader.exec_module(module)
            description = module.generate_launch_description()
        finally:
            for name, kept in previous.items():
                sys.modules.pop(name) if kept is None else sys.modules.update({name: kept})
        known = {e.name for e in description.entities if isinstance(e, DeclareLaunchArgument)}
        assert arguments.keys() <= known, f'{path} has no {arguments.keys() - known}'
        self.configurations.update(arguments)
        self.visit(description)

    def visit(self, entity):
        for sub_entity in entity.visit(self) or []:
            self.visit(sub_entity)

    def go_on(self):
        """Handle events until there is none left."""
        while self.events and not self.ended:
            event = self.events.popleft()
            if isinstance(event, ChangeState):
                self._change_states(event)
            for handler in tuple(self.handlers):
                if handler.matches(event):
                    if handler.once:
                        self.handlers.remove(handler)
                    self._visit_all(handler.entities)
            if isinstance(event, ProcessExited):
                self._visit_all(event.action.on_exit or [])

    def _visit_all(self, entities):
        for entity in entities if isinstance(entities, list) else [entities]:
            self.visit(entity)

    def _change_states(self, event):
        for process in self.processes:
            node = process.action
            if isinstance(node, LifecycleNode) and event.matcher(node):
                before, during, after = _STEPS[event.transition]
                if node.state == before:  # else the node refuses, and stays as it is
                    node.state = self.refusals.get(during, after)
                    self.transitions.append((process.namespace, during, node.state))
                    for states in ((before, during), (during, node.state)):
                        self.events.append(StateTransition(node, *states))

    def _modules(self):
        found = {}

        def module(name, **names):
            found[name] = ModuleType(name)
            vars(found[name]).update(names)

        share = str(self.share)
        module('ament_index_python')
        module('ament_index_python.packages', get_package_share_directory={'sharp_ros': share}.get)
        module('launch', LaunchDescription=LaunchDescription)
        actions = (
            DeclareLaunchArgument, EmitEvent, ExecuteProcess, GroupAction,
            IncludeLaunchDescription, LogInfo, OpaqueFunction, RegisterEventHandler,
            SetEnvironmentVariable, Shutdown, UnregisterEventHandler,
        )  # fmt: skip
        module('launch.actions', **{action.__name__: action for action in actions})
        module('launch.conditions', IfCondition=IfCondition)
        module('launch.event_handlers', OnProcessStart=OnProcessStart)
        module('launch.events', matches_action=matches_action)
        module(
            'launch.launch_description_sources',
            PythonLaunchDescriptionSource=PythonLaunchDescriptionSource,
        )
        module(
            'launch.substitutions',
            EnvironmentVariable=EnvironmentVariable,
            LaunchConfiguration=LaunchConfiguration,
        )
        module('launch_ros')
        module('launch_ros.actions', LifecycleNode=LifecycleNode, Node=Node)
        module('launch_ros.event_handlers', OnStateTransition=OnStateTransition)
        module('launch_ros.events')
        module('launch_ros.events.lifecycle', ChangeState=ChangeState)
        module('launch_ros.parameter_descriptions', ParameterValue=ParameterValue)
        transition = SimpleNamespace(TRANSITION_CONFIGURE=CONFIGURE, TRANSITION_ACTIVATE=ACTIVATE)
        module('lifecycle_msgs')
        module('lifecycle_msgs.msg', Transition=transition)
        return found
