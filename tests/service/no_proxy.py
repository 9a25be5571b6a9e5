"""A hub without a proxy: nobody comes with a browser, its own port is asked."""

from jupyterhub.proxy import Proxy


class NoProxy(Proxy):
    """Keeps no routes."""

    should_start = False

    async def add_route(self, routespec, target, data):
        pass

    async def delete_route(self, routespec):
        pass

    async def get_all_routes(self):
        return {}
