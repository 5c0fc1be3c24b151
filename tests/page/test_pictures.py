def test_a_map_coarser_than_its_image_covers_the_same_square():
    figure = case_panel(np.zeros((128, 128)), map=np.ones((64, 64)), scale=UNIT)
    drawn = figure.axes[1].images
    assert len(drawn) == 2 and drawn[0].get_extent() == drawn[1].get_extent()
