"""What our launch files use of `launch`, `launch_ros` and `ament_index_python`, executed.

No wheel carries those packages. `test/ros/test_launch_real.py` runs the launch files with the real
ones where they are installed, as on every robot; this stand-in is for everywhere else. The
constructors take the arguments that the classes have on humble, jazzy and kilted alike and no
other: a misspelt one, or one that a distribution lacks (`autostart` on humble), is a TypeError as
it would be there. Like the real thing, a group forgets its configurations when it ends, so that a
handler that runs later cannot read them, and a configuration that is not set is an error.

Type checks of the real packages, read and run in launch 3.7.1 and launch_ros 0.28.0 (rolling,
December 2024; the same in the branches humble and jazzy), each made here, too:

- a text is a str, a Substitution or an iterable of both, else TypeError (launch:
  normalize_to_list_of_substitutions): names, values, commands, messages, prefixes;
- `ParameterValue(value, value_type)`: a substitution, or an instance of the type, else TypeError;
  what a substitution gives is converted when it is evaluated: `int(...)`, `float(...)`, true and
  false as in YAML, 1 and 0, else ValueError;
- `parameters` is a list (Node: ensure_argument_type); an element is a mapping or the path of a
  file; a value is a ParameterValue, str, Substitution, bool, int, float or sequence of them;
- `remappings` are pairs of texts;
- `on_exit` is None, a callable of event and context, or actions, else TypeError; what a callable
  or an OpaqueFunction returns is None or entities, else RuntimeError or TypeError;
- `function` of OpaqueFunction is callable; `name` and `description` of an argument are str;
- `launch_arguments` of an include are pairs of texts.

A second Shutdown while the launch ends is an error here, as it is in launch_ros once a file uses
its node (`Cannot shutdown a ROS adapter that is not running`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import importlib.util
from pathlib import Path
import sys
from types import ModuleType, SimpleNamespace

import yaml

# substitutions -----------------------------------------------------------------------------------


class Substitution:
    pass


class LaunchConfiguration(Substitution):
    def __init__(self, variable_name, *, default=None):
        self.name, self.default = checked(variable_name), default

    def perform(self, context):
        context.read.add(text(context, self.name))
        if self.name in context.launch_configurations:
            return context.launch_configurations[self.name]
        assert self.default is not None, f'launch configuration {self.name!r} does not exist'
        return text(context, self.default)


class EnvironmentVariable(Substitution):
    def __init__(self, name, *, default_value=None):
        self.name, self.default = checked(name), default_value

    def perform(self, context):
        if self.name in context.environment:
            return context.environment[self.name]
        assert self.default is not None, f'environment variable {self.name!r} does not exist'
        return text(context, self.default)


def checked(value):
    """The same, if it is what the real packages take for a text."""
    parts = [value] if isinstance(value, (str, Substitution)) else value
    for part in parts:
        if not isinstance(part, (str, Substitution)):
            raise TypeError(f'Failed to normalize given item of type {type(part)}')
    return value


def text(context, value):
    """Text, a substitution, or several of them, as one text."""
    if isinstance(checked(value), str):
        return value
    if isinstance(value, Substitution):
        return value.perform(context)
    return ''.join(text(context, part) for part in value)


class ParameterValue:
    def __init__(self, value, *, value_type=None):
        several = isinstance(value, Sequence) and not isinstance(value, str)
        substitution = isinstance(value, Substitution) or (
            several and any(isinstance(part, Substitution) for part in value)
        )
        if value_type is not None and not substitution and not isinstance(value, value_type):
            raise TypeError(f"value='{value}' is not an instance of {value_type}")
        self.value, self.type, self.substitution = value, value_type, substitution

    def evaluate(self, context):
        if not self.substitution:
            return self.value
        found = text(context, self.value)
        if self.type in (str, int, float):
            return self.type(found)
        if self.type is bool:
            found = {'1': 'true', '0': 'false'}.get(found, found)
        found = yaml.safe_load(found) if found else found
        if not isinstance(found, self.type or (bool, int, float, str, list)):
            raise ValueError(f"Cannot convert value '{found}' to '{self.type}'")
        return found


# events ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProcessExited:
    action: object
    returncode: int = 0


# actions -----------------------------------------------------------------------------------------


class Entity:
    def visit(self, context):
        return entities(self.execute(context))


def entities(found):
    """What an entity or a handler returned, as a list."""
    if isinstance(found, Entity):
        return [found]
    found = list(found or [])
    if not all(isinstance(entity, Entity) for entity in found):
        raise RuntimeError(f'expected LaunchDescriptionEntity, got {found}')
    return found


class Action(Entity):
    def __init__(self, *, condition=None):
        assert condition is None


class LaunchDescription(Entity):
    def __init__(self, initial_entities=None):
        self.entities = entities(initial_entities)

    def execute(self, context):
        return self.entities


class DeclareLaunchArgument(Action):
    def __init__(self, name, *, default_value=None, description=None, choices=None, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(name, str) or not isinstance(description, (str, type(None))):
            raise TypeError(f'{name!r} and {description!r} must be str')
        if default_value is not None:
            checked(default_value)
        assert choices is None
        self.name, self.default, self.description = name, default_value, description

    def execute(self, context):
        context.declared[self.name] = self
        if self.name not in context.launch_configurations:
            if self.default is None:
                raise RuntimeError(f'Required launch argument "{self.name}" was not provided.')
            context.launch_configurations[self.name] = text(context, self.default)


class SetEnvironmentVariable(Action):
    def __init__(self, name, value, **kwargs):
        super().__init__(**kwargs)
        self.name, self.value = checked(name), checked(value)

    def execute(self, context):
        context.environment[text(context, self.name)] = text(context, self.value)


class OpaqueFunction(Action):
    def __init__(self, *, function, args=None, kwargs=None, **left_over_kwargs):
        super().__init__(**left_over_kwargs)
        if not callable(function):
            raise TypeError(f"OpaqueFunction expected a callable for 'function', got {function}")
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
        self.actions = entities(actions)

    def execute(self, context):
        outside = (dict(context.launch_configurations), dict(context.environment))
        for action in self.actions:
            context.visit(action)
        context.launch_configurations, context.environment = outside


class PythonLaunchDescriptionSource:
    def __init__(self, launch_file_path):
        self.path = checked(launch_file_path)


class IncludeLaunchDescription(Action):
    def __init__(self, launch_description_source, *, launch_arguments=None, **kwargs):
        super().__init__(**kwargs)
        self.source = launch_description_source
        self.arguments = [(checked(k), checked(v)) for k, v in launch_arguments or ()]

    def execute(self, context):
        context.include(
            text(context, self.source.path), {k: text(context, v) for k, v in self.arguments}
        )


class LogInfo(Action):
    def __init__(self, *, msg, **kwargs):
        super().__init__(**kwargs)
        self.message = checked(msg)

    def execute(self, context):
        context.log.append(text(context, self.message))


class Shutdown(Action):
    def __init__(self, *, reason='reason not given', **kwargs):
        super().__init__(**kwargs)
        self.reason = reason

    def execute(self, context):
        assert not context.is_shutdown, f'shut down twice: {context.ended}, {self.reason}'
        context.ended = self.reason


class TimerAction(Action):
    """Its actions are visited when the launch waits, unless it ends before."""

    def __init__(self, *, period, actions, cancel_on_shutdown=True, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(period, (int, float)):
            checked(period)
        assert cancel_on_shutdown is True
        self.actions = entities(actions)

    def execute(self, context):
        context.timers.append(self)


class ExecuteProcess(Action):
    def __init__(
        self, *, cmd, prefix=None, name=None, cwd=None, env=None, additional_env=None,
        shell=False, sigterm_timeout='5', sigkill_timeout='5', emulate_tty=False, output='log',
        output_format='', cached_output=False, log_cmd=False, on_exit=None, respawn=False,
        respawn_delay=None, **kwargs,
    ):  # fmt: skip
        super().__init__(**kwargs)
        self.command = [checked(part) for part in cmd]
        self.prefix = None if prefix is None else checked(prefix)
        self.label = None if name is None else checked(name)
        if not callable(on_exit):
            entities(on_exit)
        self.on_exit = on_exit

    def execute(self, context):
        default = LaunchConfiguration('launch-prefix', default='')
        prefix = default if self.prefix is None else self.prefix
        self.started = SimpleNamespace(
            action=self,
            command=[text(context, part) for part in self.command],
            prefix=text(context, prefix),
            environment=dict(context.environment),
        )
        context.processes.append(self.started)


class Node(ExecuteProcess):
    def __init__(
        self, *, executable, package=None, name=None, namespace=None, exec_name=None,
        parameters=None, remappings=None, ros_arguments=None, arguments=None, **kwargs,
    ):  # fmt: skip
        assert 'cmd' not in kwargs
        super().__init__(cmd=[executable, *(arguments or [])], name=exec_name, **kwargs)
        if not isinstance(parameters, (list, type(None))):
            raise TypeError(f'parameters: expected a list, got {parameters}')
        for parameter in parameters or []:
            if not isinstance(parameter, Mapping):
                checked(parameter)
                continue
            for key, value in parameter.items():
                checked(key)
                kinds = (ParameterValue, str, Substitution, bool, int, float, Sequence)
                if not isinstance(value, kinds):
                    raise TypeError(f'Unexpected type for parameter value {value!r}')
        self.given = SimpleNamespace(
            package=package, name=name, namespace=namespace, parameters=parameters or [],
            remappings=[(checked(k), checked(v)) for k, v in remappings or ()],
        )  # fmt: skip

    def execute(self, context):
        super().execute(context)
        given, started = self.given, self.started
        started.package = text(context, given.package)
        started.executable = started.command[0]
        started.name = text(context, given.name or '')
        started.namespace = text(context, given.namespace or '')
        started.remappings = {text(context, k): text(context, v) for k, v in given.remappings}
        started.files = [text(context, p) for p in given.parameters if not isinstance(p, Mapping)]
        started.order = [  # the later count
            set(p) if isinstance(p, Mapping) else text(context, p) for p in given.parameters
        ]
        started.parameters = {
            k: v.evaluate(context) if isinstance(v, ParameterValue) else v
            for p in given.parameters
            if isinstance(p, Mapping)
            for k, v in p.items()
        }


# the run -----------------------------------------------------------------------------------------


@dataclass
class Launch:
    """One `ros2 launch`, from its start to what becomes of the ends of its processes.

    Args:
        share: of the package, which holds the folder of launch files.
        environment: of the shell.
    """

    share: Path
    environment: dict = field(default_factory=dict)
    launch_configurations: dict = field(default_factory=dict)
    declared: dict = field(default_factory=dict)
    read: set = field(default_factory=set)
    processes: list = field(default_factory=list)
    log: list = field(default_factory=list)
    timers: list = field(default_factory=list)
    ended: str | None = None

    @property
    def is_shutdown(self):
        return self.ended is not None

    def run(self, name, /, **arguments):
        """Do what `ros2 launch sharp_ros NAME KEY:=VALUE ...` does."""
        self.launch_configurations.update(arguments)
        self.include(str(self.share / 'launch' / name), {})
        assert arguments.keys() - {'launch-prefix'} <= self.declared.keys()
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
        self.launch_configurations.update(arguments)
        self.visit(description)

    def visit(self, entity):
        for sub_entity in entity.visit(self):
            self.visit(sub_entity)

    def exits(self, process, returncode=0):
        """A process of this launch ends."""
        on_exit = process.action.on_exit
        if callable(on_exit):
            on_exit = on_exit(ProcessExited(process.action, returncode), self)
        for entity in entities(on_exit):
            self.visit(entity)

    def waits(self):
        """Time passes, and nothing else happens."""
        while self.timers and not self.is_shutdown:
            for action in self.timers.pop().actions:
                self.visit(action)

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
            DeclareLaunchArgument, ExecuteProcess, GroupAction, IncludeLaunchDescription, LogInfo,
            OpaqueFunction, SetEnvironmentVariable, Shutdown, TimerAction,
        )  # fmt: skip
        module('launch.actions', **{action.__name__: action for action in actions})
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
        module('launch_ros.actions', Node=Node)
        module('launch_ros.parameter_descriptions', ParameterValue=ParameterValue)
        return found
