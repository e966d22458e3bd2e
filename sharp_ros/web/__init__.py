"""The live view in a browser: `LiveView` takes the results of frames as they come.

`playback` feeds it from a recording without ROS, `still` shows files. viser draws the page; it is
imported when one is made.
"""

from sharp_ros.web.live import Controls, LiveView
from sharp_ros.web.page import plain

__all__ = ['Controls', 'LiveView', 'plain']
