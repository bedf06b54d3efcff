"""What a reader is shown of a page: its words, and which of them stand out."""

import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

from markdown_it import MarkdownIt

# What GitHub reads, as far as our pages use it.
GITHUB = MarkdownIt('commonmark').enable(['table', 'strikethrough'])
VOID = {'br', 'col', 'hr', 'img', 'input', 'link', 'meta', 'source', 'wbr'}
TOLD = {'a', 'blockquote', 'code', 'del', 'em', 'li', 'strong', 'td', 'th'}
TOLD |= {f'h{level}' for level in range(1, 7)}
LINK = re.compile(r'\]\(([^)\s]+)\)')
CODE = re.compile(r'^(`{3,}).*?^\1|`[^`\n]+`', re.MULTILINE | re.DOTALL)


class Shown(HTMLParser):
    """The text of HTML, and of each of its elements; formulas and controls left out.

    Attributes:
        words: All text, without its spaces.
        elements: How often there is an element with a text.
        ids: The anchors.
        links: Where links lead.
    """

    def __init__(self, html):
        super().__init__()
        self.elements, self.ids, self.links = Counter(), [], []
        self._text, self._open, self._hidden = '', [], 0
        self.feed(html)
        self.close()
        self.words = _bare(self._text)

    def handle_starttag(self, tag, attributes):
        facts = dict(attributes)
        if facts.get('id'):
            self.ids.append(facts['id'])
        if tag == 'img':
            self.elements[tag, facts['alt']] += 1
        if tag in VOID:
            return
        classes = (facts.get('class') or '').split()
        hidden = tag in ('button', 'nav', 'script', 'style')
        hidden |= bool({'headerlink', 'language-math', 'math'} & set(classes))
        if tag == 'a' and not hidden:
            self.links.append(facts.get('href'))
        self._hidden += hidden
        self._open.append((tag, hidden, len(self._text)))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        name, hidden, begun = self._open.pop()
        assert name == tag, f'<{name}> ends with </{tag}>'
        if tag in TOLD and not self._hidden:
            self.elements[tag, _bare(self._text[begun:])] += 1
        self._hidden -= hidden

    def handle_data(self, data):
        if not self._hidden:
            self._text += data


def _bare(text):
    return ''.join(text.split())


def anchors_on_github(text):
    """The anchors that GitHub gives to the headings of a page."""
    found = []
    tokens = GITHUB.parse(text)
    for opened, inline in pairwise(tokens):
        if opened.type == 'heading_open':
            words = ''.join(c.content for c in inline.children if c.content)
            slug = re.sub(r'[^\w\- ]', '', words.lower()).replace(' ', '-')
            seen = found.count(slug)
            found.append(f'{slug}-{seen}' if seen else slug)
    return found


def links_of(text):
    """Where the links and pictures of a page lead; code may look like links."""
    return LINK.findall(CODE.sub('', text))
