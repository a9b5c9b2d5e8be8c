"""Who a rank is among the ranks, how a plain model is split over them, and the collectives that this
takes."""
